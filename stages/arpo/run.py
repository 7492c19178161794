"""Adaptive-rejection preference optimisation: CPO's loss, with the rejected answer weighted by its distance to the chosen one."""

from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.training.preference_losses import LossSettings, paper_tau, released_tau
from alma_pipeline.ml.training.preference_training import train_on_preferences
from stages.arpo.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `preferences`, triples. Leaves a checkpoint."""
    config: Config = job.config
    tau = paper_tau(config.eta, config.tau_gradient) if config.tau == "paper" else released_tau(config.tau_gradient)
    terms = LossSettings(beta=config.beta, nll_weight=config.nll_weight, nll_norm=config.nll_norm, tau=tau)
    return train_on_preferences(job, config, terms)
