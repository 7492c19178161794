"""Settings of `arpo`: adaptive-rejection preference optimisation of a group's adapter (X-ALMA, arXiv 2410.03115)."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.schema import PreferenceTraining
from alma_pipeline.schema.fields import choice, number


@dataclass(frozen=True, kw_only=True)
class Config(PreferenceTraining):
    """CPO's loss with the rejected answer weighted by tau, which shrinks as the two answers become equally likely."""

    kind: str = "arpo"
    per_group: bool = True
    adapter: str = "continue"
    tau: str = choice("paper", "released")
    """paper: min(e^(eta z) - 1, 1); released: min(0.9 e^(0.4 z) - 1, 1), as the published trainer computes it."""
    eta: float = number(1.5, above=0)
    """For tau=paper (sec. 5.3)."""
    tau_gradient: bool = False
    """Differentiate tau, as the published trainer does. Off is our choice: with tau=paper, making the chosen answer less likely
    can widen the gap at a lower loss, and the model then learns the preference backwards."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.tau == "released" and self.eta != Config.eta:
            yield f"eta={self.eta} has no effect with tau=released, whose numbers are fixed; use tau=paper, or remove eta"
