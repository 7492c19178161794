"""Resume points that are written while training goes on: what counts when the writing is slow, is killed, or fails."""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.training import step_log
from alma_pipeline.ml.training.loop import _Loop
from alma_pipeline.ml.training.points import point_writer
from alma_pipeline.ml.training.points.point_writer import PointWriter
from alma_pipeline.ml.training.points.resume import Topology
from alma_pipeline.ml.training.points.snapshot import Snapshot
from alma_pipeline.ml.training.step_log import StepLog
from helpers.tiny_model import EVERY_STEP, digest, lines, make_base, make_job, make_pairs
from stages.parallel.run import run

WRITE = Snapshot.write


def copy_of(tmp_path: Path, name: str) -> Job:
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_pairs(tmp_path / "pairs")}
    return make_job(tmp_path / name, "parallel", inputs, EVERY_STEP)


class Gate:
    """Files are written only while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.asked = threading.Event(), threading.Event()
        gate = self

        def write(self: Snapshot, path: Path) -> tuple[int, str]:
            gate.asked.set()
            assert gate.opened.wait(60)
            return WRITE(self, path)

        monkeypatch.setattr(Snapshot, "write", write)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(monkeypatch)
    yield found
    found.opened.set()


def test_training_goes_on_while_a_point_is_written_and_the_point_is_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """The weights change under the writer five times before it writes; a run from its point ends with the same weights."""
    first, second = copy_of(tmp_path, "first"), copy_of(tmp_path, "second")
    complete = PointWriter.complete

    def open_and_complete(self: PointWriter) -> float:
        gate.opened.set()
        seconds = complete(self)
        (first.resume / "step-1").rename(second.resume / "step-1")
        return seconds

    second.resume.mkdir()
    monkeypatch.setattr(PointWriter, "complete", open_and_complete)
    run(first)
    assert [line["step"] for line in lines(first) if "train/loss" in line["metrics"]] == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(PointWriter, "complete", complete)
    run(second)
    assert [line["step"] for line in lines(second) if "train/loss" in line["metrics"]] == [2, 3, 4, 5, 6]
    assert digest(second) == digest(first)


def test_a_point_that_was_not_complete_when_the_run_died_does_not_count_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """The older point and the checkpoint it knows are kept until the newer one is complete."""
    calm, killed = copy_of(tmp_path, "calm"), copy_of(tmp_path, "killed")
    monkeypatch.setattr(step_log, "SPARING", 0)
    gate.opened.set()
    run(calm)
    begin = PointWriter.begin

    def die(self: PointWriter, step: int, progress: dict[str, Any]) -> None:
        if step == 4:
            gate.opened.clear()
        begin(self, step, progress)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(PointWriter, "begin", die)
    with pytest.raises(KeyboardInterrupt):
        run(killed)
    found = sorted(path.name.split("-")[1] for path in killed.resume.glob("step-*"))
    assert found == ["3", "4.tmp"] and not list(killed.resume.glob("step-4.tmp-*/manifest.json"))
    monkeypatch.setattr(Snapshot, "write", WRITE)
    monkeypatch.setattr(PointWriter, "begin", begin)
    (Path(killed.work) / "metrics.jsonl").unlink()
    run(killed)
    assert lines(killed)[0]["step"] == 4
    assert digest(killed) == digest(calm)
    assert [path.name for path in killed.resume.iterdir()] == ["step-5"]


def test_a_disk_that_fills_up_in_the_background_stops_the_run_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Snapshot, path: Path) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Snapshot, "write", full)
    job = copy_of(tmp_path, "job")
    with pytest.raises(OSError, match=r"No space left on device.*model_states\.pt"):
        run(job)
    assert lines(job)[-1]["step"] < 6 and not list(job.resume.glob("step-?"))


def test_a_point_asked_for_at_once_counts_when_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while an older one is being written, and twice at the same step."""
    job, calm = copy_of(tmp_path, "job"), copy_of(tmp_path, "calm")
    step, found = _Loop._step, []

    def step_and_save(self: Any, batches: Any) -> Any:
        done = step(self, batches)
        if done.number in (2, 3):
            self.save()
            self.save()
            found.append([path.name for path in job.resume.iterdir()])
        return done

    run(calm)
    monkeypatch.setattr(_Loop, "_step", step_and_save)
    run(job)
    assert found == [["step-2"], ["step-3"]]
    assert digest(job) == digest(calm)


@pytest.mark.parametrize(
    ("since", "seconds", "due"), [(9, 0.1, False), (11, 0.1, True), (11, 1.0, False), (21, 1.0, True), (1e6, None, False)]
)
def test_the_next_point_waits_for_twenty_times_what_the_last_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: float, seconds: float | None, due: bool
) -> None:
    """At least `checkpoint_seconds`, here 10; never while one is being written."""
    job = make_job(tmp_path, "parallel", {}, {"checkpoint_seconds": 10})
    log = StepLog(job, Any, 6, dict)  # type: ignore[arg-type]
    log.pending = [None]  # type: ignore[list-item]
    now = time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    log.mark_begun()
    if seconds is not None:
        log.mark_complete(seconds)
    monkeypatch.setattr(time, "perf_counter", lambda: now + since)
    assert bool(log._plan()[1]) is due


def test_the_manifest_vouches_for_what_the_thread_wrote(tmp_path: Path) -> None:
    job = copy_of(tmp_path, "job")
    run(job)
    [point] = job.resume.iterdir()
    manifest = json.loads((point / "manifest.json").read_text())
    assert {name: size for name, (size, _) in manifest["files"].items()} == {
        path.name: path.stat().st_size for path in point.iterdir() if path.name != "manifest.json"
    }
    assert manifest["step"] == int(point.name[5:])


@pytest.fixture
def first_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PointWriter:
    """Rank 0 of two, with an older point, a model without state, and another rank that has nothing to report."""
    (tmp_path / "step-1").mkdir()
    engine: Any = SimpleNamespace(copy=lambda folder: {})
    monkeypatch.setattr(point_writer, "broadcast", lambda value: value)
    monkeypatch.setattr(point_writer, "barrier", lambda: None)
    return PointWriter(tmp_path, engine, World(0, 2, torch.device("cpu")), Topology(2, 1, "bf16"))


def test_a_full_disk_of_another_machine_stops_this_rank_too(
    tmp_path: Path, first_of_two: PointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_writer, "all_gather", lambda own: [own, ({}, "OSError: [Errno 28] No space left on device")])
    first_of_two.begin(3, {})
    with pytest.raises(PipelineError, match=r"process 1 could not write its files .*No space left on device"):
        first_of_two.complete()
    assert (tmp_path / "step-1").exists() and not (tmp_path / "step-3").exists()


@pytest.mark.parametrize(
    ("size", "message"), [(None, r"no files of the processes \[1\]"), (4, "has 4 bytes after 9 were written")]
)
def test_files_that_the_first_machine_does_not_see_make_no_point(
    tmp_path: Path, first_of_two: PointWriter, monkeypatch: pytest.MonkeyPatch, size: int | None, message: str
) -> None:
    name = "generators-1.safetensors"

    def gathered(own: Any) -> list[Any]:
        [folder] = tmp_path.glob("step-3.tmp-*")
        if size:
            (folder / name).write_bytes(bytes(size))
        return [own, ({name: (9, "")}, "")]

    monkeypatch.setattr(point_writer, "all_gather", gathered)
    first_of_two.begin(3, {})
    with pytest.raises((UserError, PipelineError), match=message):
        first_of_two.complete()
    assert (tmp_path / "step-1").exists() and not (tmp_path / "step-3").exists()


def test_a_rank_syncs_its_own_files_and_their_folder(
    tmp_path: Path, first_of_two: PointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another machine has not written, it cannot bring to the disk."""
    synced, fsync = [], os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(point_writer, "all_gather", lambda own: [own, ({}, "stopped here")])
    first_of_two.begin(3, {})
    with pytest.raises(PipelineError, match="stopped here"):
        first_of_two.complete()
    [folder] = tmp_path.glob("step-3.tmp-*")
    assert synced == ["generators-0.safetensors", folder.name]
