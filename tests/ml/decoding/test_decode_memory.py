"""A device that runs out of memory while it decodes: smaller batches, equal outputs. The device is a stub on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alma_pipeline.job import Job
from alma_pipeline.ml.decoding import decode, generate
from alma_pipeline.ml.decoding.decode import PartialOutputs
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.schema import Hardware
from helpers.search_model import LIMITS, PROMPTS, SAMPLING, make
from helpers.tiny_checkpoint import make_job

pytestmark = pytest.mark.usefixtures("one_thread")


def limit_rows(model: PreTrainedModel, most: int) -> Callable[[], int]:
    """Let forward passes of more than `most` rows run out of memory; returns a function that counts those."""
    failed = [0]

    def check(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        if len(kwargs["input_ids"]) > most:
            failed[0] += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(check, with_kwargs=True)
    return lambda: failed[0]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    init_process_group(Hardware(name="test", threads=1))
    return make_job(tmp_path / "job", "translate", {})


@pytest.mark.parametrize("how", ["beam", "sample", "generate"])
def test_the_budget_is_halved_until_batches_fit(
    job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "generate":
        monkeypatch.setattr(decode, "decoder", lambda model: generate.decode)

    def found(model: PreTrainedModel, kept: PartialOutputs | None, lowered: list[int]) -> object:
        large = replace(LIMITS, decode_tokens=100_000)
        if how == "sample":
            return decode.sample(model, PROMPTS, SAMPLING, large, kept=kept, on_lowered=lowered.append)
        return decode.beam_search(model, PROMPTS, 3, large, kept=kept, on_lowered=lowered.append)

    lowered, none = list[int](), list[int]()
    expected = found(make(), None, none)
    model = make()
    failed = limit_rows(model, 12 if how == "generate" else 4)
    assert found(model, PartialOutputs(job, "outputs"), lowered) == expected
    lines = [line for line in capsys.readouterr().out.splitlines() if "no memory for a decoding batch" in line]
    assert len(lines) == failed() > 0 and "of 100000 tokens (hardware.decode_tokens)" in lines[0]
    assert lines[-1].endswith(f"continuing with {lowered[0]}, which changes no output") and len(lowered) == 1 and not none
    kept = (job.resume / "outputs.0.jsonl").read_text().splitlines()
    assert len(kept) == len(PROMPTS), "each sentence is kept once"


def test_one_failure_in_the_middle_repeats_only_what_was_not_done() -> None:
    """It may come at any step, also after some sentences were done."""
    model = make()
    expected = decode.beam_search(model, PROMPTS, 3, LIMITS)
    calls, counts = [0], list[int]()

    def progress(done: int, *, total: int) -> None:
        counts.append(done)

    def once(module: object, args: object) -> None:
        calls[0] += 1
        if calls[0] == 9:
            raise RuntimeError("CUDA error: out of memory")  # as a kernel reports it

    model.register_forward_pre_hook(once)
    assert decode.beam_search(model, PROMPTS, 3, LIMITS, progress) == expected
    assert counts == sorted(counts) and counts[-1] == len(PROMPTS)


def test_a_sentence_that_does_not_fit_alone_is_an_error() -> None:
    """Whose message names the settings (execution.out_of_memory), as this error's name is known there."""
    model = make()
    limit_rows(model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        decode.greedy(model, PROMPTS, LIMITS)


def test_under_zero_3_one_process_takes_no_steps_of_its_own() -> None:
    """Every forward pass gathers weights from all: repeating a batch would leave the others behind."""
    model = make()
    failed = limit_rows(model, 4)
    for parameter in model.parameters():
        parameter.ds_id = 0  # type: ignore[attr-defined]
    with pytest.raises(torch.OutOfMemoryError):
        decode.greedy(model, PROMPTS, LIMITS)
    assert failed() == 1
