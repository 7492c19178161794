"""A worker on another machine than its parent, with locks that reach it and with locks that do not."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stages.fake_many.config import Config as FakeMany

from alma_pipeline import heartbeat
from alma_pipeline.execution.failure import worker_error
from alma_pipeline.execution.guard import ABANDONED, EXIT_ABANDONED, wait_for_first
from alma_pipeline.job import Job
from alma_pipeline.mounts import Reach
from alma_pipeline.schema import Hardware
from alma_pipeline.store.store import Store
from helpers.another_machine import STILL, start
from helpers.fake_stages.world import fake_world, journal
from helpers.processes import later, wait_for

KEY = "a" * 64


class Machines:
    """One store, and processes on two machines that share its disk."""

    def __init__(self, root: Path, orders: Path) -> None:
        self.store, self.orders = Store(root / "store"), orders
        self.own = {host: root / f"locks of {host}" for host in ("home", "node")}
        for folder in self.own.values():
            folder.mkdir()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, host: str, reach: str, *words: str, clock: float = 0.0, rank: int = 0) -> "subprocess.Popen[str]":
        locks = "shared" if reach == "all" else self.own[host]
        self.processes.append(start(host, locks, *words, clock=clock, rank=rank))
        return self.processes[-1]

    def parent(self, host: str, reach: str, clock: float = 0.0) -> "subprocess.Popen[str]":
        return self.start(host, reach, "begin", str(self.store.root), "a", KEY, clock=clock)

    def worker(self, reach: str, token: str, rank: int = 0) -> "subprocess.Popen[str]":
        """A worker on the machine `node`, at work."""
        job = Job("a", KEY, str(self.work), FakeMany(text="a", steps=3), Hardware(name="x"), {})
        job.out.mkdir(exist_ok=True)
        job.write()
        (self.orders / "a.json").write_text(json.dumps({"pause": 600}))
        process = self.start("node", reach, "worker", str(self.work), token, rank=rank)
        wait_for(lambda: str(process.pid) in {str(pid) for pid, _ in journal(self.orders, "a")} or process.poll() is not None)
        return process

    @property
    def work(self) -> Path:
        return self.store.work_path("a", KEY)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machines]:
    with fake_world(monkeypatch, tmp_path) as orders:
        machines = Machines(tmp_path, orders)
        yield machines
        machines.close()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def token(process: "subprocess.Popen[str]") -> str:
    """Of a parent that has the folder."""
    word, _, rest = line(process).partition(" ")
    assert word == "has", rest
    return str(json.loads(rest)["token"])


@pytest.mark.parametrize("reach", ["all", "one"])
def test_a_worker_lives_as_long_as_its_parent_and_the_next_parent_waits_for_both(machines: Machines, reach: str) -> None:
    """The clocks differ by a day, which heartbeats do not notice; a parent that is suspended for a moment loses no worker."""
    parent = machines.parent("home", reach, clock=86_400)
    worker = machines.worker(reach, token(parent))
    second = machines.parent("node", reach, clock=-86_400)
    until = f"; if it is dead, this continues once its heartbeat has not changed for {STILL:.0f} s" if reach == "one" else ""
    assert line(second) == f"waits a: waiting for another process that is running it (process {parent.pid} on home{until})"
    # Suspended for less than the limit.
    parent.send_signal(signal.SIGSTOP)
    time.sleep(STILL / 2)
    parent.send_signal(signal.SIGCONT)
    time.sleep(1.0)
    assert worker.poll() is None and machines.work.joinpath("owner.json").exists()
    parent.kill()
    killed = time.monotonic()
    assert line(second).startswith(("has", "waits a: waiting for a worker of an earlier run to exit (process"))
    took = time.monotonic() - killed
    assert took < STILL / 2 if reach == "all" else took > STILL / 2
    output, _ = worker.communicate(timeout=30)
    found = ABANDONED.search(output)
    assert worker.returncode == EXIT_ABANDONED and found and output in (machines.work / "log.txt").read_text()
    reasons = (f"its parent, process {parent.pid} on home, is gone: ", f"process {second.pid} on node owns this job now")
    assert found[1].startswith(reasons)


def test_a_worker_whose_parent_was_killed_says_so(machines: Machines) -> None:
    """Each rank by itself."""
    parent = machines.parent("home", "one")
    worker = machines.worker("one", token(parent), rank=1)
    parent.kill()
    output, _ = worker.communicate(timeout=30)
    beat = machines.store.root / "locks" / f"{KEY[:12]}.owner.beat-1"
    expected = f"its parent, process {parent.pid} on home, is gone: its heartbeat {beat} has not changed for {STILL:.0f} s"
    assert worker.returncode == EXIT_ABANDONED
    assert f"worker process {worker.pid} on node (rank 1) ends: {expected}\n" in output
    # A parent that was only suspended reports it.
    job = Job("a", KEY, str(machines.work), FakeMany(text="a", steps=3), Hardware(name="x"), {})
    error = worker_error(job, 1, 0)
    assert str(error).startswith(f"a: its worker ended because nobody seemed to wait for it: {expected}")
    for name in ("failed-1.txt", "log.txt"):
        (machines.work / name).unlink()
    assert "nobody seemed to wait for it; was this command suspended?" in str(worker_error(job, EXIT_ABANDONED, 0))


def test_a_worker_ends_at_once_when_its_parent_lets_go(machines: Machines) -> None:
    parent = machines.parent("home", "one")
    worker = machines.worker("one", token(parent))
    started = time.monotonic()
    assert parent.stdin is not None
    parent.stdin.write("\n")
    parent.stdin.flush()
    output, _ = worker.communicate(timeout=30)
    assert worker.returncode == EXIT_ABANDONED and ".owner.beat-1 has ended\n" in output
    assert time.monotonic() - started < STILL


def test_other_ranks_follow_the_heartbeat_of_the_first(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is free for them, from the start and after `kill -9`."""
    for name, value in (("reach", lambda folder: Reach.UNKNOWN), ("STILL_SECONDS", 1.5)):
        monkeypatch.setattr(heartbeat, name, value)
    work = machines.store.begin("a", KEY)
    first = machines.start("node", "one", "hold", str(machines.store.root / "locks" / f"{KEY[:12]}.worker"))
    assert line(first) == "has"
    waiting = later(lambda: wait_for_first(work.path))
    waiting.join(2)
    assert waiting.is_alive(), "the first works"
    first.kill()
    waiting.join(10)
    assert not waiting.is_alive(), "the first is gone without a result"
    work.close()


def test_a_parent_that_was_suspended_too_long_commits_nothing(machines: Machines) -> None:
    """Another machine has its folder by then; both would write one artifact."""
    first = machines.parent("home", "one")
    token(first)
    first.send_signal(signal.SIGSTOP)
    second = machines.parent("node", "one")
    assert line(second).startswith("waits")
    new = token(second)
    first.send_signal(signal.SIGCONT)
    assert first.stdin is not None
    first.stdin.write("commit\n")
    first.stdin.flush()
    output, _ = first.communicate(timeout=30)
    assert f"a: process {second.pid} on node has taken over {machines.work}" in output
    assert json.loads((machines.work / "owner.json").read_text())["token"] == new, "it did not close the folder of the other"
    # The second one's heartbeat is its own too: a third still waits.
    third = machines.parent("home", "one")
    assert f"(process {second.pid} on node" in line(third)
