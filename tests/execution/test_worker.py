"""One worker by hand: what it reads and writes, and when it ends of its own accord."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stages.fake.config import Config as Fake
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.execution import guard
from alma_pipeline.execution.guard import EXIT_ABANDONED
from alma_pipeline.execution.worker import EXIT_FAILURE, EXIT_USER_ERROR
from alma_pipeline.files import DigestCache, lock_file, write_json
from alma_pipeline.job import Input, Job, read_job
from alma_pipeline.schema import Hardware, Language
from alma_pipeline.store.store import Store, WorkFolder
from helpers.fake_stages.recipes import planned, recipe
from helpers.fake_stages.world import fake_world, journal
from helpers.processes import wait_for


class Bench:
    """A work folder and workers on it."""

    def __init__(self, store: Store, orders: Path) -> None:
        self.store, self.orders = store, orders
        self.config = recipe({"a": FakeMany(text="a", steps=3)})
        self.step = planned(self.config, store)["a"]
        self.processes: list[subprocess.Popen[str]] = []

    def begin(self) -> WorkFolder:
        work = self.store.begin("a", self.step.key)
        (work.path / "out").mkdir(exist_ok=True)
        Job("a", self.step.key, str(work.path), self.step.node.config, self.config.hardware, {}).write()
        return work

    def order(self, **what: Any) -> None:
        (self.orders / "a.json").write_text(json.dumps(what))

    def start(self, work: Path, token: str, rank: int = 0) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "alma_pipeline.execution.worker", str(work), token]
        process = subprocess.Popen(command, env={**os.environ, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def end(self, process: "subprocess.Popen[str]") -> tuple[int, str]:
        _, errors = process.communicate(timeout=30)
        return process.returncode, errors

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Store) -> Iterator[Bench]:
    with fake_world(monkeypatch, tmp_path) as orders:
        bench = Bench(store, orders)
        yield bench
        bench.close()


def test_a_worker_leaves_a_result(bench: Bench) -> None:
    work = bench.begin()
    assert bench.end(bench.start(work.path, work.token)) == (0, "")
    assert json.loads((work.path / "result.json").read_text())["text"] == "a"
    assert (work.path / "out" / "text.txt").read_text() == "a"
    work.close()


def test_another_rank_writes_no_result_and_stays_until_the_first_one_is_done(bench: Bench) -> None:
    """B18. Rank 0 may score for hours alone; torchrun would end it 300 s after the other ranks."""
    work = bench.begin()
    second = bench.start(work.path, work.token, rank=1)
    wait_for(lambda: "rank 1" in {word for _, word in journal(bench.orders, "a")})
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=2)
    assert not (work.path / "result.json").exists() and not (work.path / "metrics.jsonl").exists()
    assert bench.end(bench.start(work.path, work.token)) == (0, "")
    assert bench.end(second) == (0, "")
    work.close()


@pytest.mark.parametrize(
    ("end", "code", "said"), [("user", EXIT_USER_ERROR, "not to my liking"), ("crash", EXIT_FAILURE, "Traceback")]
)
def test_bad_ends(bench: Bench, end: str, code: int, said: str) -> None:
    bench.order(end=end)
    work = bench.begin()
    found, errors = bench.end(bench.start(work.path, work.token))
    assert found == code and said in errors
    assert not (work.path / "result.json").exists()
    assert (work.path / "error.json").exists() == (end == "user")
    work.close()


@pytest.mark.parametrize("during", [False, True])
def test_text_that_changed_leaves_no_result(bench: Bench, tmp_path: Path, during: bool) -> None:
    """After the plan, or while the stage runs."""
    text = tmp_path / "train.tsv"
    text.write_text("de\ten\n")
    found = DigestCache(None).of(text)
    work = bench.begin()
    job = read_job(work.path / "job.json")
    dataclasses.replace(job, files={found: str(text)}).write()
    bench.order(pause=2)
    if not during:
        text.write_text("de\ten\na\tb\n")
    process = bench.start(work.path, work.token)
    if during:
        wait_for(lambda: journal(bench.orders, "a") or process.poll() is not None)
        text.write_text("de\ten\na\tb\n")
    code, errors = bench.end(process)
    assert code == EXIT_USER_ERROR
    assert f"{text} changed {'while it was read' if during else 'after the plan was made'}" in errors
    assert not (work.path / "result.json").exists() and (work.path / "error.json").exists()
    work.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_of_another_token_ends_before_it_does_anything(bench: Bench, rank: int) -> None:
    """One that was still importing when its parent died, and now finds the job of the next."""
    work = bench.begin()
    code, errors = bench.end(bench.start(work.path, "the token of before", rank))
    assert code == EXIT_ABANDONED and f"process {os.getpid()}" in errors and "owns this job now" in errors
    assert journal(bench.orders, "a") == []
    work.close()


def test_a_worker_that_waited_looks_again_whose_the_folder_is(bench: Bench) -> None:
    work = bench.begin()
    owner = json.loads((work.path / "owner.json").read_text())
    leftover = lock_file(owner["worker_lock"])
    leftover.acquire()
    process = bench.start(work.path, work.token)
    time.sleep(1.0)
    write_json(work.path / "owner.json", owner | {"token": "the next one's"})
    leftover.release()
    code, errors = bench.end(process)
    assert code == EXIT_ABANDONED, errors
    assert journal(bench.orders, "a") == []
    work.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_ends_when_its_parents_lock_is_free(bench: Bench, rank: int) -> None:
    """Each rank by itself: the launcher between them may live on."""
    bench.order(pause=600)
    work = bench.begin()
    process = bench.start(work.path, work.token, rank)
    wait_for(lambda: journal(bench.orders, "a") or process.poll() is not None)
    work.close()
    code, errors = bench.end(process)
    assert code == EXIT_ABANDONED
    line = f"worker process {process.pid} on {socket.gethostname()} (rank {rank}) ends: its parent, process {os.getpid()} on "
    line += f"{socket.gethostname()}, is gone: the lock {work.lease.path} is free\n"
    assert errors == (work.path / "log.txt").read_text() == (work.path / f"failed-{rank}.txt").read_text() == line


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_ends_when_it_is_no_longer_wanted(bench: Bench, rank: int) -> None:
    """Without a signal: a launcher may end and leave its ranks behind, on other nodes too."""
    bench.order(pause=600)
    work = bench.begin()
    process = bench.start(work.path, work.token, rank)
    wait_for(lambda: journal(bench.orders, "a"))
    work.revoke()
    code, errors = bench.end(process)
    assert code == EXIT_ABANDONED and f"its parent, process {os.getpid()} on {socket.gethostname()}, has stopped it" in errors
    work.close()


def test_a_worker_ends_when_another_parent_takes_over(bench: Bench) -> None:
    bench.order(pause=600)
    first = bench.begin()
    process = bench.start(first.path, first.token)
    wait_for(lambda: journal(bench.orders, "a"))
    first.lease.release()
    told: list[str] = []
    second = bench.store.begin("a", bench.step.key, told.append)
    assert process.poll() is not None or bench.end(process)[0] == EXIT_ABANDONED
    who = f"process {process.pid} on {socket.gethostname()}"
    assert told in ([], [f"a: waiting for a worker of an earlier run to exit ({who})"])
    second.close()


def test_a_worker_outlives_the_clearing_up_of_its_folder(bench: Bench) -> None:
    """The parent has its result and makes the artifact: no reason to end with an error."""
    work = bench.begin()
    code, errors = bench.end(bench.start(work.path, work.token))
    assert (code, errors) == (0, "")
    record = bench.store.commit(work, {"name": "a", "key": bench.step.key, "kind": "fake", "payload": {}, "result": {}} | WHEN)
    assert not work.path.exists() and record.path.exists()
    work.close()


WHEN = {"created": "2026-11-29T07:35:00+00:00", "seconds": 0.0}


def test_a_store_that_this_node_does_not_see(bench: Bench, tmp_path: Path) -> None:
    """B2: on several nodes the work folder must be on a disk they share."""
    code, errors = bench.end(bench.start(tmp_path / "elsewhere", "T", rank=5))
    assert code == EXIT_USER_ERROR and "must be on a disk that all machines share" in errors


def test_a_job_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """B17, B21: frozen dataclasses through plain JSON."""
    from stages.cpo.config import Config as Cpo

    languages = {"en": Language(name="English", locale="en", nllb="eng_Latn")}
    config = Cpo(steps=3, seed=1, languages=languages, inputs={"init": "parallel"})
    init = Input("k", "parallel", "/x", {"a": [1]}, base="/b", base_key="b", adapters=["/x"], adapter_keys=["k"])
    job = Job("cpo", "key", str(tmp_path), config, Hardware(name="x", threads=2), {"init": init})
    job.write()
    assert read_job(tmp_path / "job.json") == job


def test_other_ranks_wait_for_the_first_unless_it_was_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WATCH_SECONDS", 0.01)
    work = bench.begin()
    first = lock_file(json.loads((work.path / "owner.json").read_text())["worker_lock"])
    waiting = threading.Thread(target=guard.wait_for_first, args=(work.path,), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive(), "the first has not begun"
    first.acquire()
    waiting.join(0.1)
    assert waiting.is_alive(), "the first works"
    first.release()
    waiting.join(5)
    assert not waiting.is_alive(), "the first is gone without a result"


def test_log_lines_are_rank_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("a", "k", str(tmp_path), Fake(), Hardware(name="x"), {})
    job.log(1, 2, {"train/loss": 0.5})
    monkeypatch.setenv("RANK", "1")
    job.log(2, 2, {"train/loss": 0.4})
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["step"], line["total"], line["metrics"]) == (1, 2, {"train/loss": 0.5})
