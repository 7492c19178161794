"""Training on (source, chosen, rejected) triples: what the stages `cpo` and `arpo` do, but for the loss they choose."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.job import Job
from alma_pipeline.ml.data.preference_pairs import PairLimits, read_pairs
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.ml.training.dev_set import dev_scorer
from alma_pipeline.ml.training.loop import train
from alma_pipeline.ml.training.preference_losses import WITH_REFERENCE, LossSettings
from alma_pipeline.ml.training.preference_objective import PreferenceModel, as_split, chosen_answer, with_reference
from alma_pipeline.schema import PreferenceTraining


def train_on_preferences(job: Job, config: PreferenceTraining, terms: LossSettings) -> dict[str, Any]:
    """Train `init` on the triples of `preferences` and save the checkpoint; returns its record.

    Inputs: `init`, the parent checkpoint; `preferences`, a folder with train.jsonl and dev.jsonl.
    """
    world = init_process_group(job.hardware)
    init, triples = job.inputs["init"], Path(job.inputs["preferences"].path)

    # Tokenise the triples; those that are too long or empty are dropped and counted.
    prompter = Prompter(AutoTokenizer.from_pretrained(init.path, local_files_only=True), config.prompt, config.languages)
    limits = PairLimits(prompt=config.max_prompt, length=config.max_length)
    pairs = {name: read_pairs(triples / f"{name}.jsonl", prompter, limits) for name in ("train", "dev")}
    kept = {name: found.kept for name, found in pairs.items()}

    # Dropout is off, as in the published trainer.
    trainee = open_for_training(init, config, job.hardware, dropout=0.0, work=Path(job.work))
    objective = PreferenceModel(trainee.model, job.hardware.micro_batch_tokens, terms)

    # DPO and IPO compare with the parent's log-probabilities, which are those of the model before its first step.
    if terms.loss in WITH_REFERENCE:
        kept = {name: with_reference(objective, found, world) for name, found in kept.items()}
    data, dev = (as_split(kept[name], objective) for name in ("train", "dev"))
    result = train(job, world, trainee, objective, data, dev, dev_scorer(job, dev.examples, chosen_answer))
    return result | {"pairs": {name: found.counts() for name, found in pairs.items()}}
