"""Train one LoRA on a language group's text, in packed blocks, over a frozen base."""

from pathlib import Path
from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.data.examples import read_blocks, read_sequences
from alma_pipeline.ml.distributed import join
from alma_pipeline.ml.models.load import open_for_training
from alma_pipeline.ml.training.loop import train
from alma_pipeline.ml.training.objective import blocks_objective


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `corpus`, documents or joined pairs in blocks. Leaves an adapter."""
    world = join(job.hardware)
    corpus = Path(job.inputs["corpus"].path)
    trainee = open_for_training(job.inputs["init"], job.config, job.hardware, job.config.lora.dropout)
    objective = blocks_objective(trainee.model, job.hardware.row_tokens, job.config.documents)
    return train(job, world, trainee, objective, read_blocks(corpus, "train"), read_sequences(corpus, "dev"))
