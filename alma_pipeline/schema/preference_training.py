"""Settings that `cpo` and `arpo` share: training on (source, chosen, rejected) triples. What they minimise is their own."""

from dataclasses import dataclass

from alma_pipeline.schema.fields import choice, number
from alma_pipeline.schema.filled_in import WithLanguages
from alma_pipeline.schema.training import Training


@dataclass(frozen=True, kw_only=True)
class PreferenceTraining(Training, WithLanguages):
    """Settings of every kind that trains on preferences: the two terms of the loss, and how triples become tokens."""

    beta: float = number(0.1, above=0)
    """Sharpness of the preference term. CPO: 0.1 (arXiv 2401.08417, sec. 4.2). ARPO: 0.1 in the released code; the paper's value
    was not found."""
    nll_weight: float = number(1.0, at_least=0)
    """Weight of the likelihood term (arXiv 2401.08417, App. C.2: 1)."""
    nll_norm: str = choice("token", "sequence")
    """token: mean over the chosen tokens of the global batch; sequence: sum per answer, mean over pairs (ibid., Eq. 5)."""
    prompt: str = choice("alma", "x_alma")
    max_prompt: int = number(256, at_least=1)
    """Longest prompt, in tokens; triples with a longer one are dropped."""
    max_length: int = number(512, at_least=2)
    """Longest prompt and answer together, in tokens; triples that exceed it are dropped."""

    def sequence(self) -> dict[str, int]:
        return {"max_length": self.max_length}
