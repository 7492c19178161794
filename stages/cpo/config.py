"""Settings of `cpo`: contrastive preference optimisation (ALMA-R, arXiv 2401.08417, Eqs. 3 and 5), or another loss over pairs."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.schema import PreferenceTraining
from alma_pipeline.schema.fields import choice, number

USED_BY = {
    "nll_weight": ("cpo", "hinge", "cpo_simpo"),
    "nll_norm": ("cpo", "hinge", "cpo_simpo"),
    "gamma": ("simpo", "cpo_simpo"),
}
"""Settings that only some losses have, with those losses."""


@dataclass(frozen=True, kw_only=True)
class Config(PreferenceTraining):
    """A loss by name, and the one setting that only the SimPO losses have."""

    kind: str = "cpo"
    loss: str = choice("cpo", "hinge", "simpo", "cpo_simpo", "dpo", "ipo", as_before="cpo")
    """The loss to minimise; `preference_losses` lists formulas and sources. cpo, hinge and cpo_simpo have a likelihood
    term; dpo and ipo compare with the parent checkpoint. simpo and cpo_simpo compare means over tokens, which are small, so they
    need a larger beta: their authors use 2 to 10, and gamma 0.3 to 0.8 times beta (princeton-nlp/SimPO, README;
    fe1ixxu/CPO_SIMPO, training_configs)."""
    gamma: float = number(0.5, at_least=0, as_before=0.5)
    """Target margin of simpo and cpo_simpo, after beta (TRL's CPOConfig.simpo_gamma: 0.5)."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        for name, losses in USED_BY.items():
            if self.loss not in losses and getattr(self, name) != getattr(Config, name):
                *others, last = losses
                use = f"{', '.join(others)} or {last}"
                yield f"{name}={getattr(self, name)} has no effect with loss={self.loss}; use loss={use}, or remove it"
