"""Decoding: token ids of prompts in, token ids of outputs out, greedily, by beam search or by seeded sampling.

Knows nothing of text, prompt formats or files. The result does not depend on how prompts are batched, on their
order or on the number of processes, up to rounding in the model's own arithmetic.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.job import Job
from alma_pipeline.ml.decoding import generate, tree, vllm
from alma_pipeline.ml.decoding.search import Beams, Finish, Limits, Results, Sampling
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.ml.distributed import from_first

LOG_SECONDS = 1.0
Announce = Callable[[list[int]], None]
"""Hears before each forward which prompt each row of its batch belongs to."""
Decoder = Callable[[PreTrainedModel, dict[int, list[int]], Beams | Sampling, Limits, Finish, Announce], None]


class Progress(Protocol):
    """Hears how many of this process's prompts are done."""

    def __call__(self, done: int, *, total: int) -> None: ...


class KeptOutputs:
    """Outputs of one set of prompts in a job's resume folder: one JSON line a prompt, a file for each process."""

    def __init__(self, job: Job, name: str) -> None:
        """All of the job's processes must make it together: they agree on what was found."""
        self.path = job.resume / f"{name}.{job.rank}.jsonl"
        self.found: Results = from_first(_read(job.resume, name) if job.rank == 0 else {})
        if self.path.exists():
            _drop_torn_line(self.path)

    def add(self, finished: Results) -> None:
        """Keep these too; what is written outlives the process."""
        self.path.parent.mkdir(exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps([index, outputs]) + "\n" for index, outputs in finished.items())


def _read(folder: Path, name: str) -> Results:
    """What all processes left, also if they were more than there are now."""
    found: Results = {}
    for path in sorted(folder.glob(f"{name}.*.jsonl")):
        with open(path, encoding="utf-8") as file:
            found |= {index: outputs for line in file if line.endswith("\n") for index, outputs in [json.loads(line)]}
    return found


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line whose writer was killed in the middle of it: the next one must not be joined to it."""
    with open(path, "rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def limits(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, decode_tokens: int) -> Limits:
    """The limits of a run with this tokenizer's end-of-sentence token. Raises ValueError where it has none."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sentence token; decoding needs one to know where to stop")
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return Limits(max_new_tokens=max_new_tokens, decode_tokens=decode_tokens, eos=tokenizer.eos_token_id, pad=pad)


def text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Output ids as text, without special tokens and outer white space."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def greedy(
    model: PreTrainedModel | Vllm, prompts: Sequence[list[int]], limits: Limits, progress: Progress | None = None
) -> list[list[int]]:
    """The likeliest next token each time: one list of output ids per prompt, without prompt and end token."""
    return beam_search(model, prompts, 1, limits, progress)


def beam_search(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    beams: int,
    limits: Limits,
    progress: Progress | None = None,
    announce: Announce | None = None,
    kept: KeptOutputs | None = None,
) -> list[list[int]]:
    """The best hypothesis of a beam search by mean log-probability (length penalty 1, no early stopping).

    The same hypotheses as Hugging Face `generate(num_beams=beams)` finds for one prompt at a time.
    """
    return [outputs[0] for outputs in _decode(model, prompts, Beams(width=beams), limits, progress, announce, kept)]


def sample(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    limits: Limits,
    progress: Progress | None = None,
    announce: Announce | None = None,
    kept: KeptOutputs | None = None,
) -> list[list[list[int]]]:
    """`sampling.width` outputs per prompt, each token from the nucleus of the tempered distribution.

    The noise depends on (seed, index of the prompt) alone, so a prompt's samples do not depend on its batch.
    """
    return _decode(model, prompts, sampling, limits, progress, announce, kept)


def decoder(model: PreTrainedModel) -> Decoder:
    """The module that decodes with this model: `tree_decoding` where the architecture allows it."""
    return tree.decode if tree.serves(model) else generate.decode


@torch.no_grad()
def _decode(
    model: PreTrainedModel | Vllm,
    prompts: Sequence[list[int]],
    settings: Beams | Sampling,
    limits: Limits,
    progress: Progress | None,
    announce: Announce | None = None,
    kept: KeptOutputs | None = None,
) -> list[list[list[int]]]:
    if not all(prompts):
        raise ValueError(f"prompt {next(i for i, ids in enumerate(prompts) if not ids)} is empty; expected token ids")
    known = kept.found if kept else {}
    left = {index: prompt for index, prompt in enumerate(prompts) if index not in known}
    if not left:
        return [known[index] for index in range(len(prompts))]
    chosen = left if isinstance(model, Vllm) else _share(left, model)
    results: Results = {}

    def finish(finished: Results) -> None:
        results.update(finished)
        if kept:
            kept.add(finished)
        if progress:
            progress(len(results), total=len(chosen))

    if isinstance(model, Vllm):
        vllm.decode(model, chosen, settings, limits, finish)
    else:
        training = model.training
        model.eval()
        try:
            decoder(model)(model, chosen, settings, limits, finish, announce or _nobody)
        finally:
            model.train(training)
        results = _gathered(results, model)
    return [known[index] if index in known else results[index] for index in range(len(prompts))]


def _share(prompts: dict[int, list[int]], model: PreTrainedModel) -> dict[int, list[int]]:
    """The prompts this process decodes: dealt out by length, so that shares cost about the same."""
    order = sorted(prompts, key=lambda index: (-len(prompts[index]), index))
    mine = order[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if _shares(model) else order
    return {index: prompts[index] for index in mine}


def _gathered(results: Results, model: PreTrainedModel) -> Results:
    """The results of all processes, in every process."""
    if not _shares(model):
        return results
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, results)
    return {index: outputs for part in parts for index, outputs in part.items()}


def _shares(model: PreTrainedModel) -> bool:
    """Whether processes share out the work. Not under ZeRO-3: there a forward needs every process, so each one
    decodes everything."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return False
    return not any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def _nobody(rows: list[int]) -> None:
    """One set of weights for all prompts."""


def logged(job: Job) -> Progress:
    """Progress that goes to the job's log, at most once a second and at the end."""
    began = time.perf_counter()
    said = [began, -1]

    def log(done: int, *, total: int) -> None:
        now = time.perf_counter()
        if done > said[1] and (done == total or now - said[0] >= LOG_SECONDS):
            said[:] = now, done
            job.log(done, total, {"decode/sentences_per_second": done / max(now - began, 1e-9)})

    return log
