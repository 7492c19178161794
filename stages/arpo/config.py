"""Settings of `arpo`: adaptive-rejection preference optimisation on a group adapter (X-ALMA, arXiv 2410.03115)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from alma_pipeline.schema import Language, Training
from alma_pipeline.schema.fields import choice, number


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    kind: str = "arpo"
    per_group: bool = True
    adapter: str = "continue"
    beta: float = number(0.1, above=0)
    """Default of the released code; the paper's value was not found."""
    nll_weight: float = number(1.0, at_least=0)
    nll_norm: str = choice("token", "sequence")
    tau: str = choice("paper", "released")
    """paper: min(e^(eta z) - 1, 1); released: min(0.9 e^(0.4 z) - 1, 1), as the published trainer computes it."""
    eta: float = number(1.5, above=0)
    """Of tau=paper (sec. 5.3)."""
    tau_gradient: bool = False
    """Let the gradient flow through tau, as the published trainer does. Off is our choice: with tau=paper it can be
    cheaper to widen the gap by making the chosen answer less likely, and the preference is then learnt backwards."""
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan; the prompts spell their names."""
    prompt: str = choice("alma", "x_alma")
    max_prompt: int = number(256, at_least=1)
    max_length: int = number(512, at_least=2)

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.tau == "released" and self.eta != Config.eta:
            yield f"eta={self.eta} is of tau=paper, found tau=released, whose numbers are fixed; expected tau=paper, or no eta"
