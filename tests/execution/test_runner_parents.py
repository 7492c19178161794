"""Two or more parents at once, and parents that are killed: one writer whatever happens. Each is a process of its own."""

import itertools
import json
import os
import pty
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.fake_stages.world import fake_world, journal, parent
from helpers.processes import left_behind, lives, wait_for

MOMENTS = {"server": (0, 1, 6, 0, 1, 4), "command": (0, 2, 3, 0)}
"""Ten moments at which a parent is killed: lines that its workers have written by then; 0: while it starts up."""


class Parents:
    """Starts parent processes on one store, and reads what their workers did."""

    def __init__(self, root: Path, orders: Path, mode: str, steps: int) -> None:
        self.root, self.orders, self.mode, self.steps = root / "store", orders, mode, steps
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *prefix: str, terminal: int | None = None, mode: str = "") -> "subprocess.Popen[str]":
        """Start a parent, through the command `prefix`, on a terminal if one is given."""
        output = subprocess.PIPE if terminal is None else terminal
        command = [*prefix, *parent(self.root, mode or self.mode, self.steps)]
        process = subprocess.Popen(command, stdin=terminal, stdout=output, stderr=subprocess.STDOUT, text=True)
        self.started.append(process)
        return process

    def finish(self, process: "subprocess.Popen[str]") -> str:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    def journal(self, node: str) -> list[tuple[int, str]]:
        return journal(self.orders, node)

    def worked(self, process: "subprocess.Popen[str]", lines: int) -> int:
        """The worker of node a, once it has written some lines."""
        wait_for(lambda: len(self.journal("a")) > lines or process.poll() is not None, seconds=60)
        assert process.poll() is None, process.communicate()[0]
        return self.journal("a")[-1][0]

    def written(self) -> int:
        return sum(len(self.journal(node)) for node in "abc")

    def wait_until_written(self, lines: int, process: "subprocess.Popen[str]") -> None:
        wait_for(lambda: self.written() >= lines or process.poll() is not None)

    def line(self, process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def order(self, node: str, **what: Any) -> None:
        (self.orders / f"{node}.json").write_text(json.dumps(what))

    def go(self, node: str) -> None:
        (self.orders / f"{node}.go").touch()

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        wait_for(lambda: not left_behind(str(self.orders)), seconds=20)  # no test leaves an orphan


@pytest.fixture(params=["server", "command"])
def parents(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Parents]:
    with fake_world(monkeypatch, tmp_path) as orders:
        parents = Parents(tmp_path, orders, request.param, steps=20)
        yield parents
        parents.close()


def assert_one_writer(lines: list[tuple[int, str]], steps: int) -> None:
    """No worker works after another has begun, and together they did every step, repeating at most the one cut off."""
    turns = [pid for pid, _ in itertools.groupby(pid for pid, _ in lines)]
    assert len(turns) == len(set(turns)), lines
    done = [int(word.split()[1]) for _, word in lines if word.startswith("step")]
    assert done[0] == 0 and done[-1] == steps - 1
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(done)), done
    assert [word for _, word in lines if word == "end"] == ["end"]


def test_killed_at_any_moment_and_started_again_at_once(parents: Parents) -> None:
    """One writer only; the orphan ends by itself; what was done is not done again."""
    moments = random.Random(7)
    for name in "abc":
        parents.order(name, pause=0.05)
    for more in MOMENTS[parents.mode]:
        process, before = parents.start(), parents.written()
        if more:  # while a worker works; else while the parent starts up
            parents.wait_until_written(before + more, process)
        time.sleep(moments.uniform(0.0, 0.1 if more else 1.0))
        process.send_signal(signal.SIGKILL)
    assert "text abc" in parents.finish(parents.start())
    for name in "abc":
        assert_one_writer(parents.journal(name), parents.steps)
    pids = {pid for name in "abc" for pid, _ in parents.journal(name)}
    wait_for(lambda: not any(map(lives, pids)))
    assert list((parents.root / "work").iterdir()) == []


def test_an_orphan_ends_by_itself(parents: Parents) -> None:
    """Also when nobody comes after it."""
    parents.order("a", hold=3)
    process = parents.start()
    pid = parents.worked(process, 3)
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: not lives(pid))
    parents.go("a")
    assert "text abc" in parents.finish(parents.start())
    assert_one_writer(parents.journal("a"), parents.steps)
    assert len({pid for pid, _ in parents.journal("a")}) == 2


def test_a_killed_worker_is_a_failure_and_the_next_run_goes_on(parents: Parents) -> None:
    parents.order("a", hold=3)
    process = parents.start()
    os.kill(parents.worked(process, 3), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "a: its worker was killed (signal 9)" in output
    assert "most likely for memory" in output and "the same command resumes from the last resume point" in output
    parents.go("a")
    assert "text abc" in parents.finish(parents.start())
    assert_one_writer(parents.journal("a"), parents.steps)


def test_what_a_library_breaks_when_python_is_taken_down_breaks_no_finished_node(parents: Parents) -> None:
    """Seen: `terminate called without an active exception`, by a thread pool after the result was on disk."""
    parents.order("a", end="late")
    output = parents.finish(parents.start())
    assert "a FINISHED" in output and "text abc" in output


def test_two_parents_at_once_make_each_node_once(parents: Parents) -> None:
    parents.order("a", hold=3)
    first = parents.start()
    parents.worked(first, 1)
    second = parents.start()
    assert parents.line(second).startswith("waiting a: waiting for another process")
    parents.go("a")
    outputs = [parents.finish(first), parents.finish(second)]
    assert all("text abc" in output for output in outputs)
    for name in "abc":
        assert_one_writer(parents.journal(name), parents.steps)
        assert len({pid for pid, _ in parents.journal(name)}) == 1
        assert sum(f"{name} FINISHED" in output for output in outputs) == 1


@pytest.mark.parametrize("parents", ["server"], indirect=True)
def test_six_parents_at_once_make_each_node_once(parents: Parents) -> None:
    for name in "abc":
        parents.order(name, pause=0.02)
    started = [parents.start() for _ in range(6)]
    outputs = [parents.finish(process) for process in started]
    assert all("text abc" in output for output in outputs)
    for name in "abc":
        assert_one_writer(parents.journal(name), parents.steps)
        assert sum(f"{name} FINISHED" in output for output in outputs) == 1


@pytest.mark.parametrize("parents", ["server"], indirect=True)
def test_overlapping_sweeps_make_what_they_share_once(parents: Parents) -> None:
    """Three jobs each, in opposite orders, over nodes that are equal and nodes that are not."""
    for name in "abc":
        parents.order(name, pause=0.01)
    started = [parents.start(mode="sweep"), parents.start(mode="sweep back")]
    outputs = [parents.finish(process) for process in started]
    assert all(f"text ab{last}" in output for last in "xyz" for output in outputs)
    for name, made in (("a", 1), ("b", 1), ("c", 3)):
        assert sum(output.count(f"{name} FINISHED") for output in outputs) == made
        assert len({pid for pid, _ in parents.journal(name)}) == made


def test_who_waited_for_a_parent_that_died_goes_on_where_it_was(parents: Parents) -> None:
    """Its plan knew of no resume point; the work folder does."""
    parents.order("a", hold=3)
    first = parents.start()
    pid = parents.worked(first, 4)
    second = parents.start()
    assert parents.line(second).startswith("waiting a: waiting for another process")
    first.send_signal(signal.SIGKILL)
    wait_for(lambda: not lives(pid))  # else the orphan may come to its own end first, and its successor to another
    parents.go("a")
    assert "text abc" in parents.finish(second)
    assert_one_writer(parents.journal("a"), parents.steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_interrupted_nothing_is_left_running(parents: Parents, number: int) -> None:
    """Also by a second signal while it clears up, as a closed terminal and a cluster send it."""
    parents.order("a", hold=3)
    process = parents.start()
    parents.worked(process, 3)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    if number != signal.SIGINT:
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "a KILLED" in output
    assert children and not any(lives(child.pid) for child in children)
    parents.go("a")
    assert "text abc" in parents.finish(parents.start())
    assert_one_writer(parents.journal("a"), parents.steps)


def test_a_signal_that_the_command_was_started_to_ignore_is_ignored(parents: Parents) -> None:
    parents.order("a", hold=3)
    process = parents.start("nohup")
    parents.worked(process, 3)
    process.send_signal(signal.SIGHUP)
    parents.go("a")
    assert "text abc" in parents.finish(process)


def test_a_closed_terminal_ends_the_command_and_its_workers(parents: Parents) -> None:
    """Every write to it is an error by then, in the clearing up too."""
    parents.order("a", hold=3)
    control, terminal = pty.openpty()
    process = parents.start("setsid", "--ctty", terminal=terminal)
    os.close(terminal)
    parents.worked(process, 3)
    children = psutil.Process(process.pid).children(recursive=True)
    os.close(control)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert children and not any(lives(child.pid) for child in children)
