"""Merge a checkpoint's adapters into its full model, in fp32 on the CPU, and compare the outputs of the two on a probe."""

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.job import Job
from alma_pipeline.ml.models.checkpoints import TOKENIZER_FILES
from alma_pipeline.ml.models.merge import merge_and_compare
from stages.merge.config import Config


def run(job: Job) -> dict[str, Any]:
    """Input: `checkpoint`. Writes a plain Hugging Face folder. Returns how far its outputs differ from the unmerged model's."""
    config: Config = job.config
    checkpoint = job.inputs["checkpoint"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    model, measured = merge_and_compare(checkpoint, config.precision, tokenizer)
    model.save_pretrained(job.out)
    for name in TOKENIZER_FILES:
        if (Path(checkpoint.path) / name).is_file():
            shutil.copyfile(Path(checkpoint.path) / name, job.out / name)
    return {
        "checkpoint": {"form": "full"},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "merge": {"adapters": len(checkpoint.adapters)} | measured,
    }
