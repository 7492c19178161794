"""Training on packed blocks of text: what the stages `mono` and `group_adapter` do."""

from pathlib import Path
from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.data.token_arrays import read_blocks, read_sequences
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.ml.training.loop import train
from alma_pipeline.ml.training.objective import blocks_objective
from alma_pipeline.schema import BlockTraining


def train_on_blocks(job: Job, config: BlockTraining) -> dict[str, Any]:
    """Train `init` on the blocks of `corpus` and save the checkpoint; returns its record."""
    world = init_process_group(job.hardware)
    corpus = Path(job.inputs["corpus"].path)
    trainee = open_for_training(job.inputs["init"], config, job.hardware, config.lora.dropout, Path(job.work))
    objective = blocks_objective(trainee.model, job.hardware.micro_batch_tokens, config.cross_document_attention)
    return train(job, world, trainee, objective, read_blocks(corpus, "train"), read_sequences(corpus, "dev"))
