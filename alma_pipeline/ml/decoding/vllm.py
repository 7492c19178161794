"""Decode with vLLM in place of a Hugging Face model: in processes of its own environment, one for each group of devices.

This side tokenises and deals out prompts; `vllm_worker` is the other side. Results are not compared with other engines: vLLM
rounds and draws in its own way, and its beam search ranks hypotheses by log-probability over the length of prompt and output
together (B50). That search knows the tokenizer's end token alone, and always runs to the largest length; a hypothesis is cut at
the first end token. `engine` is therefore part of the key of `translate` and `preferences`. Written for vllm 0.32.0, whose CPU
build the tests run; not run on a GPU.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Input
from alma_pipeline.ml import json_process
from alma_pipeline.ml.decoding import vllm_model
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Finish, Results, Sampling, trim
from alma_pipeline.ml.decoding.vllm_model import VllmModel
from alma_pipeline.ml.json_process import JsonProcess
from alma_pipeline.ml.models.end_tokens import stated_end_tokens
from alma_pipeline.paths import vllm_interpreter
from alma_pipeline.schema import Hardware

WORKER = Path(__file__).with_name("vllm_worker.py")
BATCH = 2048
"""Prompts per request to one process: enough to fill vLLM's batches, and the most that a killed run loses of each."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
END_SECONDS = 8.0
"""How long processes get to end by themselves: somewhat longer than the worker gives vLLM."""
CPU_CACHE_SHARE = 4
"""The part of `hardware.memory_gb` that the key-value cache gets on a CPU: one in so many (our choice)."""
VARIABLES = {
    # The engine in the worker's own process: its scheduling is then deterministic (vLLM's page on reproducibility), and on a CPU
    # it starts in 18 s instead of 50 s (measured on 2 busy cores).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # No network: nothing is reported or downloaded, and processes of one model meet over loopback.
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    # As many CPU threads as OMP_NUM_THREADS, on any core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
REMOVED = ("PYTHONPATH", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of this process's Python and process group, which vLLM would take for its own."""


@dataclass(frozen=True)
class Vllm:
    """A checkpoint loaded by vLLM, once in each process."""

    processes: list[JsonProcess]
    ends: tuple[int, ...] = ()
    """The end tokens that the checkpoint states."""
    signature: str = ""
    """Versions, and how the checkpoint was loaded: all that outputs depend on besides the node's settings."""

    def close(self) -> None:
        """End the processes, which frees their devices."""
        for process in self.processes:
            process.end_input()  # all at once, then one after another
        for process in self.processes:
            process.close(END_SECONDS)


def load(
    checkpoint: Input, hardware: Hardware, precision: str, longest: int, num_beams: int, work: Path
) -> tuple[Vllm, PreTrainedTokenizerBase]:
    """The checkpoint with its adapters, on all of this machine's devices, and its tokenizer.

    `longest` is the largest number of tokens of a prompt and its output together. `work` is a folder for a merged model, which
    is removed again. Raises UserError without vLLM's environment, PipelineError if vLLM cannot load the checkpoint.
    """
    python = vllm_interpreter(hardware.vllm_python)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    shutil.rmtree(work, ignore_errors=True)  # an interrupted attempt's
    processes: list[JsonProcess] = []
    try:
        model = vllm_model.prepare(checkpoint, precision, hardware, work)
        # As many copies of the model as the devices hold: copies share nothing, and so wait for nothing.
        each = vllm_model.devices_each(model.folder, precision, hardware)
        groups = json_process.device_groups(hardware, each)
        for group in groups:
            words = [str(python), "-I", str(WORKER)]
            processes.append(
                JsonProcess(words, "vLLM's worker", f"decoding with {checkpoint.path}", _environment(hardware, group))
            )
        options = _options(model, checkpoint.path, hardware, precision, longest, num_beams) | {"tensor_parallel_size": each}
        for process in processes:
            process.send([{"model": options, "adapter": str(model.adapter) if model.adapter else None}])
        [versions, *_] = [_answer(process)["versions"] for process in processes]
    except BaseException:
        Vllm(processes).close()
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)  # every process has its weights
    parts = [*(f"{name}:{number}" for name, number in versions.items()), f"dtype:{options['dtype']}"]
    parts += [f"adapter:{'unmerged' if model.adapter else 'merged'}"] if checkpoint.adapters else []
    parts += [f"tensor_parallel:{each}"] if each > 1 else []
    return Vllm(processes, tuple(stated_end_tokens(Path(checkpoint.base))), "|".join(parts)), tokenizer


def _environment(hardware: Hardware, group: dict[str, str]) -> dict[str, str]:
    """A worker's environment; `group` names its devices."""
    own = {name: value for name, value in os.environ.items() if name not in REMOVED}
    cache = max(1, int(hardware.memory_gb) // CPU_CACHE_SHARE)  # GiB
    return own | VARIABLES | {"VLLM_CPU_KVCACHE_SPACE": str(cache), "OMP_NUM_THREADS": str(hardware.threads_each(1))} | group


def _options(
    model: VllmModel, tokenizer: str, hardware: Hardware, precision: str, longest: int, num_beams: int
) -> dict[str, Any]:
    """Arguments of `vllm.LLM`."""
    options: dict[str, Any] = {
        "model": str(model.folder),
        "dtype": DTYPES[precision],
        "generation_config": "vllm",  # not the model's own, which may change sampling
        "trust_remote_code": False,
        "enforce_eager": hardware.device == "cpu",  # compiling there takes minutes
        "max_model_len": longest,  # else its cache is sized for the model's maximum length
    }
    # Only the beam search needs a tokenizer, for its end token; and it requests twice its beams, where the default limit is 20.
    options |= (
        {"tokenizer": tokenizer, "max_logprobs": max(20, 2 * num_beams)} if num_beams > 1 else {"skip_tokenizer_init": True}
    )
    return options | ({"enable_lora": True, "max_lora_rank": model.rank} if model.adapter else {})


def decode(model: Vllm, prompts: dict[int, list[int]], settings: Beams | Sampling, limits: DecodeLimits, finish: Finish) -> None:
    """Pass the outputs of each prompt to `finish`, by index, without EOS: one for a beam search, `width` for sampling."""
    # Dealt out by length, so that shares cost about the same.
    order = sorted(prompts, key=lambda index: (-len(prompts[index]), index))
    shares = [order[place :: len(model.processes)] for place in range(len(model.processes))]
    try:
        for start in range(0, len(shares[0]), BATCH):
            portions = [{index: prompts[index] for index in share[start : start + BATCH]} for share in shares]
            asked = [(process, portion) for process, portion in zip(model.processes, portions, strict=True) if portion]
            for process, portion in asked:
                process.send([_order(portion, settings, limits)])
            for process, portion in asked:
                finish(_outputs(_answer(process)["outputs"], portion, settings, limits))
    except BaseException:
        model.close()
        raise


def _order(prompts: dict[int, list[int]], settings: Beams | Sampling, limits: DecodeLimits) -> dict[str, Any]:
    """A worker's line for these prompts."""
    asked: dict[str, Any] = {"prompts": list(prompts.values())}
    if isinstance(settings, Beams) and settings.width > 1:
        beams = {"beam_width": settings.width, "max_tokens": limits.max_new_tokens, "length_penalty": 1.0}
        return asked | {"beams": beams}
    common = {"max_tokens": limits.max_new_tokens, "stop_token_ids": limits.ends, "detokenize": False}
    if isinstance(settings, Beams):
        return asked | {"samplings": [{"temperature": 0.0, **common}] * len(prompts)}
    drawn = {"n": settings.width, "temperature": settings.temperature, "top_p": settings.top_p, **common}
    # vLLM seeds a request's n outputs with seed, seed + 1, ...; ranges of different requests must not overlap.
    return asked | {"samplings": [{"seed": _seed(settings.seed, index), **drawn} for index in prompts]}


def _outputs(
    found: list[list[list[int]]], prompts: dict[int, list[int]], settings: Beams | Sampling, limits: DecodeLimits
) -> Results:
    """A worker's outputs by index, without what follows an end token; of a beam search the best, without its prompt."""
    if isinstance(settings, Beams) and settings.width > 1:
        found = [[each[0][len(prompt) :]] for each, prompt in zip(found, prompts.values(), strict=True)]
    return {index: [trim(ids, limits.ends) for ids in each] for index, each in zip(prompts, found, strict=True)}


def _answer(process: JsonProcess) -> dict[str, Any]:
    """A worker's next line. Raises PipelineError for an error."""
    line = process.receive()
    if "error" in line:
        raise PipelineError(f"vLLM failed while {process.task}: {line['error']}; the end of its log:{process.log_tail()}")
    return line


def _seed(seed: int, index: int) -> int:
    """The seed of a prompt's request: 63 bits, so that ranges for other seeds and prompts do not overlap."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)
