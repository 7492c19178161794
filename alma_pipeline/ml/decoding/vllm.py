"""Decoding by vLLM, where it is installed: what `decoding` does with a `Vllm` in the place of a model.

Optional, and not what results are compared with: vLLM rounds and draws in its own way, and its beam search ranks
hypotheses by log-probability over the length of prompt and output together (B50). Its key says so: `engine` is a
setting of `translate` and `preferences`. Written against the interface of vLLM 0.10 (`LLM.generate`, `LLM.beam_search`)
and tested with a stand-in for it: vLLM itself needs a GPU that this code has not seen.
"""

import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.decoding.search import Beams, Finish, Limits, Sampling, trim
from alma_pipeline.ml.models.load import load_merged
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.decoding import VLLM_MISSING

AT_ONCE = 2048
"""Prompts asked for together: enough for vLLM to fill its batches from, and what a killed run loses at most."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Vllm:
    """A checkpoint that vLLM holds; `engine` is its `LLM`."""

    engine: Any


def load(checkpoint: Input, hardware: Hardware, precision: str, longest: int, beams: int) -> tuple[Vllm, PreTrainedTokenizerBase]:
    """The checkpoint with all its adapters merged, cut up over this machine's devices, and its tokenizer.

    `longest` is the most tokens that a prompt and its output take together. Raises UserError without vLLM.
    """
    # Its processes must not inherit this one's process group.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        from vllm import LLM  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError(VLLM_MISSING) from error
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    with tempfile.TemporaryDirectory() as merged:
        if checkpoint.adapters:
            load_merged(checkpoint, checkpoint.adapters, precision).save_pretrained(merged)
        engine = LLM(
            model=merged if checkpoint.adapters else checkpoint.base,
            tokenizer=checkpoint.path,
            dtype=DTYPES[precision],
            generation_config="vllm",  # not the model's own, which may ask for other sampling
            trust_remote_code=False,
            tensor_parallel_size=hardware.devices,
            max_model_len=longest,  # else its cache is planned for the longest text that the model can read
            max_logprobs=max(20, 2 * beams),  # its beam search asks for twice its beams, and 20 is the most by default
        )
    return Vllm(engine), tokenizer


def decode(model: Vllm, prompts: dict[int, list[int]], settings: Beams | Sampling, limits: Limits, finish: Finish) -> None:
    """Outputs by prompt index go to `finish`, without end tokens: one for a beam search, `width` for sampling."""
    indices = list(prompts)
    for start in range(0, len(indices), AT_ONCE):
        portion = {index: prompts[index] for index in indices[start : start + AT_ONCE]}
        beams = isinstance(settings, Beams) and settings.width > 1
        outputs = _beams(model, portion, settings.width, limits) if beams else _drawn(model, portion, settings, limits)
        finish(dict(zip(portion, outputs, strict=True)))


def _drawn(model: Vllm, prompts: dict[int, list[int]], settings: Beams | Sampling, limits: Limits) -> list[list[list[int]]]:
    from vllm import SamplingParams  # type: ignore[import-not-found, unused-ignore]

    common = {"max_tokens": limits.max_new_tokens, "stop_token_ids": [limits.eos], "detokenize": False}
    if isinstance(settings, Sampling):
        drawn = {"n": settings.width, "temperature": settings.temperature, "top_p": settings.top_p}
        # Each of a request's n outputs is drawn with the request's seed and its own number added, which must not meet another's.
        seeds = [_seed(settings.seed, index) for index in prompts]
        parameters = [SamplingParams(seed=seed, **drawn, **common) for seed in seeds]
    else:
        parameters = [SamplingParams(temperature=0.0, **common)] * len(prompts)
    found = model.engine.generate(_tokens(prompts), parameters)
    return [[trim(list(output.token_ids), limits.eos) for output in each.outputs] for each in found]


def _beams(model: Vllm, prompts: dict[int, list[int]], width: int, limits: Limits) -> list[list[list[int]]]:
    from vllm.sampling_params import BeamSearchParams  # type: ignore[import-not-found, unused-ignore]

    parameters = BeamSearchParams(beam_width=width, max_tokens=limits.max_new_tokens, length_penalty=1.0)
    found = model.engine.beam_search(_tokens(prompts), parameters)
    best = [list(each.sequences[0].tokens[len(prompt) :]) for prompt, each in zip(prompts.values(), found, strict=True)]
    return [[trim(tokens, limits.eos)] for tokens in best]


def _seed(seed: int, index: int) -> int:
    """Of a prompt's request: 63 bits in which those of other seeds and places do not return."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


def _tokens(prompts: dict[int, list[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": prompt} for prompt in prompts.values()]
