"""Decode with vLLM, an optional package, in place of a Hugging Face model.

Results are not compared with other engines: vLLM rounds and draws in its own way, and its beam search ranks hypotheses by
log-probability over the length of prompt and output together (B50). That search knows the tokenizer's end token alone; a
hypothesis is cut at the first of the others. `engine` is therefore part of the key of `translate` and
`preferences`. Written for the interface of vLLM 0.10 (`LLM.generate`, `LLM.beam_search`) and tested with a stand-in; it
has not been run with vLLM itself, which needs a GPU.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Finish, Sampling, trim
from alma_pipeline.ml.models.end_tokens import stated_end_tokens
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.decoding import VLLM_MISSING

BATCH = 2048
"""Prompts per request: enough to fill vLLM's batches, and the most that a killed run loses."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Vllm:
    """A checkpoint loaded by vLLM; `engine` is its `LLM`."""

    engine: Any
    ends: tuple[int, ...] = ()
    """The end tokens that the checkpoint states."""


def load(
    checkpoint: Input, hardware: Hardware, precision: str, longest: int, num_beams: int
) -> tuple[Vllm, PreTrainedTokenizerBase]:
    """The checkpoint with all adapters merged, split over this machine's devices, and its tokenizer.

    `longest` is the largest number of tokens of a prompt and its output together. Raises UserError if vLLM is not installed.
    """
    # vLLM's processes must not inherit this one's process group.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        from vllm import LLM  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError(VLLM_MISSING) from error
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    # vLLM loads folders, so a merged model needs a temporary one.
    with tempfile.TemporaryDirectory() as merged:
        if checkpoint.adapters:
            load_merged(checkpoint, checkpoint.adapters, precision).save_pretrained(merged)
        engine = LLM(
            model=merged if checkpoint.adapters else checkpoint.base,
            tokenizer=checkpoint.path,
            dtype=DTYPES[precision],
            generation_config="vllm",  # not the model's own, which may change sampling
            trust_remote_code=False,
            tensor_parallel_size=hardware.devices,
            max_model_len=longest,  # else its cache is sized for the model's maximum length
            max_logprobs=max(20, 2 * num_beams),  # its beam search requests twice its beams; the default limit is 20
        )
    return Vllm(engine, tuple(stated_end_tokens(Path(checkpoint.base)))), tokenizer


def decode(model: Vllm, prompts: dict[int, list[int]], settings: Beams | Sampling, limits: DecodeLimits, finish: Finish) -> None:
    """Pass the outputs of each prompt to `finish`, by index, without EOS: one for a beam search, `width` for sampling."""
    indices = list(prompts)
    for start in range(0, len(indices), BATCH):
        portion = {index: prompts[index] for index in indices[start : start + BATCH]}
        beams = isinstance(settings, Beams) and settings.width > 1
        outputs = _beams(model, portion, settings.width, limits) if beams else _drawn(model, portion, settings, limits)
        finish(dict(zip(portion, outputs, strict=True)))


def _drawn(model: Vllm, prompts: dict[int, list[int]], settings: Beams | Sampling, limits: DecodeLimits) -> list[list[list[int]]]:
    """Samples, or greedy outputs, for each prompt."""
    from vllm import SamplingParams  # type: ignore[import-not-found, unused-ignore]

    common = {"max_tokens": limits.max_new_tokens, "stop_token_ids": limits.ends, "detokenize": False}
    if isinstance(settings, Sampling):
        drawn = {"n": settings.width, "temperature": settings.temperature, "top_p": settings.top_p}
        # vLLM seeds a request's n outputs with seed, seed + 1, ...; ranges of different requests must not overlap.
        seeds = [_seed(settings.seed, index) for index in prompts]
        parameters = [SamplingParams(seed=seed, **drawn, **common) for seed in seeds]
    else:
        parameters = [SamplingParams(temperature=0.0, **common)] * len(prompts)
    found = model.engine.generate(_tokens(prompts), parameters)
    return [[trim(list(output.token_ids), limits.ends) for output in each.outputs] for each in found]


def _beams(model: Vllm, prompts: dict[int, list[int]], width: int, limits: DecodeLimits) -> list[list[list[int]]]:
    """The best hypothesis of a beam search for each prompt."""
    from vllm.sampling_params import BeamSearchParams  # type: ignore[import-not-found, unused-ignore]

    parameters = BeamSearchParams(beam_width=width, max_tokens=limits.max_new_tokens, length_penalty=1.0)
    found = model.engine.beam_search(_tokens(prompts), parameters)
    best = [list(each.sequences[0].tokens[len(prompt) :]) for prompt, each in zip(prompts.values(), found, strict=True)]
    return [[trim(tokens, limits.ends)] for tokens in best]


def _seed(seed: int, index: int) -> int:
    """The seed of a prompt's request: 63 bits, so that ranges for other seeds and prompts do not overlap."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


def _tokens(prompts: dict[int, list[int]]) -> list[dict[str, list[int]]]:
    """Prompts in vLLM's format."""
    return [{"prompt_token_ids": prompt} for prompt in prompts.values()]
