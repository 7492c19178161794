"""Train all weights or a LoRA on sentence pairs, with the loss on the target only."""

from pathlib import Path
from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.data.token_arrays import Tokens, read_sequences
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.ml.training.dev_set import dev_scorer
from alma_pipeline.ml.training.loop import train
from alma_pipeline.ml.training.objective import LanguageModel
from stages.parallel.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `corpus`, pairs as prompt and target. Leaves a checkpoint."""
    config: Config = job.config
    world = init_process_group(job.hardware)
    corpus = Path(job.inputs["corpus"].path)
    data, dev = read_sequences(corpus, "train"), read_sequences(corpus, "dev")
    trainee = open_for_training(job.inputs["init"], config, job.hardware, config.lora.dropout, Path(job.work))
    objective = LanguageModel(trainee.model, job.hardware.micro_batch_tokens)
    return train(job, world, trainee, objective, data, dev, dev_scorer(job, dev.examples, _split))


def _split(example: Tokens) -> Any:
    return example.ids[: example.prompt], example.ids[example.prompt :]
