"""Contrastive preference optimisation, or another loss over pairs: chosen over rejected answers, and their likelihood."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.job import Job
from alma_pipeline.ml.data.preference_pairs import Limits, read_pairs
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.distributed import join
from alma_pipeline.ml.models.load import open_for_training
from alma_pipeline.ml.training.dev_set import wanted
from alma_pipeline.ml.training.loop import train
from alma_pipeline.ml.training.preference_losses import WITH_REFERENCE, Terms
from alma_pipeline.ml.training.preference_objective import PreferenceModel, as_split, chosen_answer, with_reference
from stages.cpo.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `preferences`, triples. Leaves a checkpoint."""
    config: Config = job.config
    world = join(job.hardware)
    init, triples = job.inputs["init"], Path(job.inputs["preferences"].path)
    prompter = Prompter(AutoTokenizer.from_pretrained(init.path, local_files_only=True), config.prompt, config.languages)
    limits = Limits(prompt=config.max_prompt, length=config.max_length)
    pairs = {name: read_pairs(triples / f"{name}.jsonl", prompter, limits) for name in ("train", "dev")}
    trainee = open_for_training(init, config, job.hardware, dropout=0.0)
    terms = Terms(config.beta, config.nll_weight, config.nll_norm, loss=config.loss, gamma=config.gamma)
    objective = PreferenceModel(trainee.model, job.hardware.row_tokens, terms)
    kept = {name: found.kept for name, found in pairs.items()}
    if config.loss in WITH_REFERENCE:
        kept = {name: with_reference(objective, found, world) for name, found in kept.items()}
    data, dev = (as_split(kept[name], objective) for name in ("train", "dev"))
    result = train(job, world, trainee, objective, data, dev, wanted(job, dev.examples, chosen_answer))
    return result | {"pairs": {name: found.counts() for name, found in pairs.items()}}
