"""Settings of `cpo`: contrastive preference optimisation (ALMA-R, arXiv 2401.08417, Eqs. 3 and 5)."""

from dataclasses import dataclass, field

from alma_pipeline.fields import choice, number
from alma_pipeline.schema import Language, Training


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    kind: str = "cpo"
    beta: float = number(0.1, above=0)
    """Sharpness of the preference term (paper, sec. 4.2)."""
    nll_weight: float = number(1.0, at_least=0)
    """Weight of the likelihood term (paper, App. C.2: 1)."""
    nll_norm: str = choice("token", "sequence")
    """token: mean over the chosen tokens of the global batch; sequence: sum per answer, mean over pairs (Eq. 5)."""
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan; the prompts spell their names."""
    prompt: str = choice("alma", "x_alma")
    max_prompt: int = number(256, at_least=1)
    max_length: int = number(512, at_least=2)
