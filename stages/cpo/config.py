"""Settings of `cpo`: contrastive preference optimisation (ALMA-R, arXiv 2401.08417, Eqs. 3 and 5)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from alma_pipeline.schema import Language, Training
from alma_pipeline.schema.fields import choice, number

USED_BY = {
    "nll_weight": ("cpo", "hinge", "cpo_simpo"),
    "nll_norm": ("cpo", "hinge", "cpo_simpo"),
    "gamma": ("simpo", "cpo_simpo"),
}
"""Settings that not every loss has, and those that have them."""


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    kind: str = "cpo"
    loss: str = choice("cpo", "hinge", "simpo", "cpo_simpo", "dpo", "ipo", as_before="cpo")
    """What is minimised; formulas and sources: `alma_pipeline.ml.preference`. `nll_weight` and `nll_norm` count for cpo, hinge
    and cpo_simpo; dpo and ipo measure against the parent checkpoint."""
    gamma: float = number(0.5, at_least=0, as_before=0.5)
    """Target margin of simpo and cpo_simpo, after beta (TRL's CPOConfig.simpo_gamma: 0.5)."""
    beta: float = number(0.1, above=0)
    """Sharpness of the preference term (CPO, sec. 4.2). simpo and cpo_simpo compare means over tokens, which are small: their
    authors take 2 to 10, with gamma 0.3 to 0.8 of it (princeton-nlp/SimPO, README; fe1ixxu/CPO_SIMPO, training_configs)."""
    nll_weight: float = number(1.0, at_least=0)
    """Weight of the likelihood term (paper, App. C.2: 1)."""
    nll_norm: str = choice("token", "sequence")
    """token: mean over the chosen tokens of the global batch; sequence: sum per answer, mean over pairs (Eq. 5)."""
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan; the prompts spell their names."""
    prompt: str = choice("alma", "x_alma")
    max_prompt: int = number(256, at_least=1)
    max_length: int = number(512, at_least=2)

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        for name, losses in USED_BY.items():
            if self.loss not in losses and getattr(self, name) != getattr(Config, name):
                yield f"{name}={getattr(self, name)} is nothing to loss={self.loss}; expected one of {', '.join(losses)}, or none"
