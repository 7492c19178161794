"""Decode prompts, as token ids, into outputs, as token ids: greedily, by beam search or by seeded sampling.

Independent of text, prompt formats and files. The result does not depend on the batching or order of prompts, or on the
number of processes, up to floating-point rounding.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.job import Job
from alma_pipeline.ml.decoding import generate, tree, vllm
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Finish, Results, Sampling
from alma_pipeline.ml.decoding.steps import UNFINISHED, Capture, WrongReplayError, cuda_graph
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.ml.device_memory import free_device_memory, is_full
from alma_pipeline.ml.distributed import all_gather, broadcast
from alma_pipeline.ml.models.end_tokens import as_list

LOG_SECONDS = 1.0
"""Least time between two log lines, in seconds."""
OnRows = Callable[[list[int]], None]
"""Called before each forward pass with the prompt index of each row of its batch."""
Decoder = Callable[[PreTrainedModel, dict[int, list[int]], Beams | Sampling, DecodeLimits, Finish, OnRows], None]
"""Decodes prompts by index and passes their outputs to a `Finish`, as they are done."""
OnLowered = Callable[[int], None]
"""Called with the token budget that some process ended with, if its device had no memory for a larger one."""


class OnProgress(Protocol):
    """Called with the number of this process's prompts that are done."""

    def __call__(self, done: int, *, total: int) -> None: ...


class PartialOutputs:
    """Finished outputs of one set of prompts in a job's resume folder: one JSON line per prompt, one file per process."""

    def __init__(self, job: Job, name: str) -> None:
        """Load what an earlier run finished, into `found`. A collective call: all processes get the same."""
        self.path = job.resume / f"{name}.{job.rank}.jsonl"
        self.found: Results = broadcast(_read(job.resume, name) if job.rank == 0 else {})
        if self.path.exists():
            _drop_torn_line(self.path)

    def add(self, finished: Results) -> None:
        """Append outputs to this process's file."""
        self.path.parent.mkdir(exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps([index, outputs]) + "\n" for index, outputs in finished.items())


def limits(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, decode_tokens: int) -> DecodeLimits:
    """Limits of a run with this tokenizer's EOS and pad tokens. Raises ValueError if it has no EOS."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sentence token, which decoding needs to know where to stop")
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return DecodeLimits(max_new_tokens=max_new_tokens, decode_tokens=decode_tokens, eos=tokenizer.eos_token_id, pad=pad)


def text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Output ids as text, without special tokens and surrounding white space."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def greedy(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    limits: DecodeLimits,
    progress: OnProgress | None = None,
    on_lowered: OnLowered | None = None,
) -> list[list[int]]:
    """The most likely next token each time: one list of output ids per prompt, without the prompt and EOS."""
    return beam_search(model, prompts, 1, limits, progress, on_lowered=on_lowered)


def beam_search(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    num_beams: int,
    limits: DecodeLimits,
    progress: OnProgress | None = None,
    on_rows: OnRows | None = None,
    kept: PartialOutputs | None = None,
    on_lowered: OnLowered | None = None,
) -> list[list[int]]:
    """The best hypothesis per prompt by mean log-probability (length penalty 1, no early stopping).

    The same as Hugging Face `generate(num_beams=num_beams)` finds for one prompt at a time. `kept` holds outputs already known.
    """
    found = _decode(model, prompts, Beams(width=num_beams), limits, progress, on_rows, kept, on_lowered)
    return [outputs[0] for outputs in found]


def sample(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    limits: DecodeLimits,
    progress: OnProgress | None = None,
    on_rows: OnRows | None = None,
    kept: PartialOutputs | None = None,
    on_lowered: OnLowered | None = None,
) -> list[list[list[int]]]:
    """`sampling.width` outputs per prompt, each token from the nucleus (arXiv 1904.09751) of the tempered distribution.

    The noise depends on (seed, prompt index) only, so a prompt's samples do not depend on its batch.
    """
    return _decode(model, prompts, sampling, limits, progress, on_rows, kept, on_lowered)


def decoder(model: PreTrainedModel) -> Decoder:
    """The decoder for this model: the tree decoder if it supports the architecture, else Hugging Face `generate`."""
    return tree.decode if tree.supports(model) else generate.decode


def log_progress(job: Job) -> OnProgress:
    """A progress callback that logs to the job, at most once every `LOG_SECONDS` and at the end."""
    began = time.perf_counter()
    last = [began, -1]  # time, prompts done

    def log(done: int, *, total: int) -> None:
        now = time.perf_counter()
        if done > last[1] and (done == total or now - last[0] >= LOG_SECONDS):
            last[:] = now, done
            job.log(done, total, {"decode/sentences_per_second": done / max(now - began, 1e-9)})

    return log


@torch.no_grad()
def _decode(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    settings: Beams | Sampling,
    limits: DecodeLimits,
    progress: OnProgress | None,
    on_rows: OnRows | None = None,
    kept: PartialOutputs | None = None,
    on_lowered: OnLowered | None = None,
) -> list[list[list[int]]]:
    """Outputs per prompt, in order. A collective call, unless the model is vLLM's."""
    if not all(prompts):
        raise ValueError(f"prompt {next(i for i, ids in enumerate(prompts) if not ids)} is empty; expected token ids")
    # Outputs kept by an earlier run are not decoded again.
    known = kept.found if kept else {}
    left = {index: prompt for index, prompt in enumerate(prompts) if index not in known}
    if not left:
        return [known[index] for index in range(len(prompts))]
    limits = _with_all_ends(limits, model)
    chosen = left if isinstance(model, Vllm) else _share(left, model)
    results: Results = {}

    def finish(finished: Results) -> None:
        results.update(finished)
        if kept:
            kept.add(finished)
        if progress:
            progress(len(results), total=len(chosen))

    # vLLM distributes the work over devices itself.
    if isinstance(model, Vllm):
        vllm.decode(model, chosen, settings, limits, finish)
    else:
        was_training = model.training
        model.eval()
        try:
            used = _decode_all(model, chosen, results, settings, limits, finish, on_rows)
        finally:
            model.train(was_training)
        results, used = _gathered(results, used, model)
        if used < limits.decode_tokens and on_lowered:
            on_lowered(used)
    return [known[index] if index in known else results[index] for index in range(len(prompts))]


def _decode_all(
    model: PreTrainedModel,
    prompts: dict[int, list[int]],
    results: Results,
    settings: Beams | Sampling,
    limits: DecodeLimits,
    finish: Finish,
    on_rows: OnRows | None,
) -> int:
    """Decode the prompts that are not in `results`, to which `finish` adds; returns the token budget that it ended with.

    Where the device has no memory for a batch, what is left is decoded with half the budget. Raises torch.OutOfMemoryError
    for a sentence that does not fit alone, and under ZeRO-3, where all processes must take the same steps.
    """
    capture, rows = capture_for(model, on_rows), list[int]()

    def watch(now: list[int]) -> None:
        rows[:] = now
        if on_rows:
            on_rows(now)

    run = decoder(model)
    while left := {index: prompt for index, prompt in prompts.items() if index not in results}:
        try:
            if run is tree.decode:
                tree.decode(model, left, settings, limits, finish, watch, capture)
            else:
                run(model, left, settings, limits, finish, watch)
            break
        except WrongReplayError as error:
            print(f"{error}; steps are launched one by one", flush=True)
            capture = None
        except RuntimeError as error:
            # `rows` may still be those of the try before.
            if not is_full(error) or len(set(rows)) <= 1 or limits.decode_tokens == 1 or _gathers_weights(model):
                raise
            limits = _lowered(limits, left, settings.width)
        free_device_memory()
    return limits.decode_tokens


def capture_for(model: PreTrainedModel, on_rows: OnRows | None) -> Capture | None:
    """How a step of this model is recorded: as a CUDA graph, unless it depends on the batch's prompts or gathers weights.

    Nor is it recorded in a process in which CUDA broke off a recording.
    """
    fixed = on_rows is None and not _gathers_weights(model)
    return cuda_graph if model.device.type == "cuda" and fixed and not UNFINISHED else None


def _lowered(limits: DecodeLimits, prompts: dict[int, list[int]], width: int) -> DecodeLimits:
    """The limits with half the token budget, or half of what these prompts can take at all, and a line in the log."""
    most = sum(len(prompt) + limits.max_new_tokens for prompt in prompts.values()) * width
    tokens = max(1, min(limits.decode_tokens, most) // 2)
    found = f"the device has no memory for a decoding batch of {limits.decode_tokens} tokens (hardware.decode_tokens)"
    print(f"{found}; continuing with {tokens}, which changes no output", flush=True)
    return dataclasses.replace(limits, decode_tokens=tokens)


def _with_all_ends(limits: DecodeLimits, model: PreTrainedModel | Vllm) -> DecodeLimits:
    """The limits with every end token that the model states: a chat model has more of them than its tokenizer."""
    stated = model.ends if isinstance(model, Vllm) else as_list(model.generation_config.eos_token_id)
    return dataclasses.replace(limits, other_ends=tuple(number for number in stated if number != limits.eos))


def _share(prompts: dict[int, list[int]], model: PreTrainedModel) -> dict[int, list[int]]:
    """The prompts that this process decodes: dealt out by length, so that shares cost about the same."""
    order = sorted(prompts, key=lambda index: (-len(prompts[index]), index))
    mine = order[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if _is_shared(model) else order
    return {index: prompts[index] for index in mine}


def _gathered(results: Results, budget: int, model: PreTrainedModel) -> tuple[Results, int]:
    """The results of all processes and the smallest of their token budgets, on every process."""
    if not _is_shared(model):
        return results, budget
    parts = all_gather((results, budget))
    found = {index: outputs for part, _ in parts for index, outputs in part.items()}
    return found, min(used for _, used in parts)


def _is_shared(model: PreTrainedModel) -> bool:
    """Whether processes share the work. Not under ZeRO-3: each forward pass needs all processes, so each decodes everything."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return False
    return not _gathers_weights(model)


def _gathers_weights(model: PreTrainedModel) -> bool:
    """Whether DeepSpeed's ZeRO-3 holds the weights, which every forward pass gathers from all processes."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def _read(folder: Path, name: str) -> Results:
    """The outputs of all processes of the earlier run, whose number may have been another."""
    found: Results = {}
    for path in sorted(folder.glob(f"{name}.*.jsonl")):
        with open(path, encoding="utf-8") as file:
            found |= {index: outputs for line in file if line.endswith("\n") for index, outputs in [json.loads(line)]}
    return found


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line whose writer was killed halfway, so that the next line is not joined to it."""
    with open(path, "rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
