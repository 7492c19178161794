"""Train one LoRA on a language group's text, in packed blocks, over a frozen base."""

from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.training.block_training import train_on_blocks


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `corpus`, documents or joined pairs in blocks. Leaves an adapter."""
    return train_on_blocks(job, job.config)
