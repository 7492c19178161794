"""Decoding that was stopped goes on with the prompts that are left, to what it would have found undisturbed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from alma_pipeline.job import Job
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.decode import PartialOutputs
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.kinds import kind_config
from helpers.process_group import in_processes
from helpers.search_model import LIMITS, PROMPTS, SAMPLING, make
from helpers.tiny_checkpoint import make_job

FEW: dict[str, Any] = {"max_new_tokens": LIMITS.max_new_tokens, "decode_tokens": 300, "eos": LIMITS.eos, "pad": LIMITS.pad}


class Stopped(Exception):
    """What a test ends a run by."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    init_process_group(Hardware(name="test", threads=1))
    return make_job(tmp_path / "job", "translate", {})


def found(model: PreTrainedModel, how: str, kept: PartialOutputs | None, heard: Any = None) -> list[Any]:
    """Few prompts at a time, so that there is something left where a run is stopped."""
    limits = type(LIMITS)(**FEW)
    if how == "beam":
        return decode.beam_search(model, PROMPTS, 3, limits, on_rows=heard, kept=kept)
    return decode.sample(model, PROMPTS, SAMPLING, limits, on_rows=heard, kept=kept)


def stopped_after(count: int, job: Job, model: PreTrainedModel, how: str) -> set[int]:
    """Run until `count` prompts or more are kept; which they are."""
    kept = PartialOutputs(job, "outputs")

    def stop(rows: list[int]) -> None:
        if kept.path.exists() and len(kept.path.read_text().splitlines()) >= count:
            raise Stopped

    with pytest.raises(Stopped):
        found(model, how, kept, stop)
    return set(dict(map(json.loads, kept.path.read_text().splitlines())))


@pytest.mark.parametrize("how", ["beam", "sample"])
def test_a_stopped_run_goes_on_with_what_is_left(job: Job, model: PreTrainedModel, one_thread: None, how: str) -> None:
    whole = found(model, how, None)
    done = stopped_after(4, job, model, how)
    assert 4 <= len(done) < len(PROMPTS)
    more = stopped_after(len(done) + 3, job, model, how)
    assert done < more and len(more) < len(PROMPTS), "it stops twice"
    heard: set[int] = set()
    assert found(model, how, PartialOutputs(job, "outputs"), heard.update) == whole
    assert heard == set(range(len(PROMPTS))) - more, "what was kept is not decoded again, everything else is"
    heard.clear()
    assert found(model, how, PartialOutputs(job, "outputs"), heard.update) == whole and not heard


def test_a_line_that_was_cut_off_is_decoded_again(job: Job, model: PreTrainedModel, one_thread: None) -> None:
    whole = found(model, "sample", PartialOutputs(job, "outputs"))
    path = job.resume / "outputs.0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lost, _ = json.loads(lines[-1])
    path.write_text("".join(lines)[:-4])
    kept = PartialOutputs(job, "outputs")
    assert set(range(len(PROMPTS))) - set(kept.found) == {lost}
    assert found(model, "sample", kept) == whole
    assert path.read_text().splitlines(keepends=True) == lines


def test_other_outputs_of_the_same_job_are_apart(job: Job) -> None:
    PartialOutputs(job, "samples-init").add({0: [[1]]})
    PartialOutputs(job, "samples-init2").add({0: [[2]]})
    assert PartialOutputs(job, "samples-init").found == {0: [[1]]}


def test_what_more_processes_left_is_known_to_fewer(job: Job, model: PreTrainedModel, one_thread: None) -> None:
    """And it is taken as it is: the planted outputs are nothing the model would say."""
    job.resume.mkdir()
    for rank, index in ((0, 3), (5, 1)):
        (job.resume / f"outputs.{rank}.jsonl").write_text(json.dumps([index, [[rank]]]) + "\n")
    result = found(model, "beam", PartialOutputs(job, "outputs"))
    whole = found(model, "beam", None)
    assert result == [[5] if i == 1 else [0] if i == 3 else output for i, output in enumerate(whole)]


def _two_processes(path: Path) -> None:
    """The first's disk has what the second must leave out; each writes what it finds."""
    os.environ["RANK"] = str(torch.distributed.get_rank())
    job = Job("test", "k" * 64, str(path.parent / "job"), kind_config("translate")(), Hardware(name="test"), {})
    heard: set[int] = set()
    outputs = found(make(), "sample", PartialOutputs(job, "outputs"), heard.update)
    torch.save((outputs, heard), path)


@pytest.mark.slow
def test_processes_agree_on_what_is_left(tmp_path: Path, model: PreTrainedModel) -> None:
    whole = found(model, "sample", None)
    job = make_job(tmp_path / "job", "translate", {})
    job.resume.mkdir()
    (job.resume / "outputs.7.jsonl").write_text("".join(json.dumps([index, whole[index]]) + "\n" for index in (0, 4, 9)))
    in_processes(_two_processes, tmp_path)
    (first, mine), (second, others) = (torch.load(tmp_path / f"rank{rank}") for rank in range(2))
    assert first == second == whole
    assert mine | others == set(range(len(PROMPTS))) - {0, 4, 9} and not mine & others
    lines = [json.loads(line) for path in job.resume.iterdir() for line in path.read_text().splitlines()]
    assert sorted(index for index, _ in lines) == list(range(len(PROMPTS))), "each is written once"
