"""A checkpoint in what decodes it, as a node's `engine` says: models of this node's processes, or vLLM."""

import dataclasses

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.job import Input, Job
from alma_pipeline.ml import distributed
from alma_pipeline.ml.decoding import vllm
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.models.load import load_for_inference


def join(job: Job) -> World:
    """As `distributed.join`; vLLM's one process leaves the devices to those that it starts."""
    alone = dataclasses.replace(job.hardware, device="cpu", devices=1, nodes=1)
    return distributed.join(job.hardware if job.config.distributed else alone)


def load(job: Job, checkpoint: Input, longest: int, beams: int) -> tuple[PreTrainedModel | Vllm, PreTrainedTokenizerBase]:
    """The checkpoint with its adapters merged, and its tokenizer. Raises UserError where vLLM is not there.

    `longest` is the most tokens that a prompt and its output take together.
    """
    if job.config.engine == "own":
        return load_for_inference(checkpoint, job.hardware, job.config.precision)
    return vllm.load(checkpoint, job.hardware, job.config.precision, longest, beams)
