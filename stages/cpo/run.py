"""Contrastive preference optimisation, or another loss over pairs that `loss` names."""

from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.training.preference_losses import LossSettings
from alma_pipeline.ml.training.preference_training import train_on_preferences
from stages.cpo.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `preferences`, triples. Leaves a checkpoint."""
    config: Config = job.config
    terms = LossSettings(
        beta=config.beta, nll_weight=config.nll_weight, nll_norm=config.nll_norm, loss=config.loss, gamma=config.gamma
    )
    return train_on_preferences(job, config, terms)
