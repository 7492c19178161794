"""Train all weights on mixed monolingual text, in packed blocks."""

from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.training.block_training import train_on_blocks


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `corpus`, documents in blocks. Leaves a checkpoint."""
    return train_on_blocks(job, job.config)
