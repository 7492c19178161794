"""The real runner, server, worker and store on fake stages: order, failures, interruption, and one writer whatever happens."""

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.bed import (
    LOCAL,
    Fake,
    World,
    chain,
    changed,
    fake_world,
    journal,
    later,
    parent,
    planned,
    recipe,
    wait_for,
)
from stages.fake_many.config import Config as FakeMany

from alma_pipeline import cli, launch
from alma_pipeline.errors import StageFailed, UserError
from alma_pipeline.launch import Launcher
from alma_pipeline.plan import Forced, Plan
from alma_pipeline.runner import Runner, checkpoint, tail
from alma_pipeline.schema import Hardware
from alma_pipeline.store import Store

CANARY = "canary-5f1c77"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """One warm server for all: it is what it is for."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patched, fake_world(patched, folder):
        patched.setenv("HF_TOKEN", CANARY)
        launcher = Launcher(LOCAL, folder)
        yield launcher
        launcher.close()


@pytest.fixture
def world(launcher: Launcher, tmp_path: Path) -> World:
    orders = launcher.log.parent / "orders"
    for file in orders.iterdir():
        file.unlink()
    return World(tmp_path, orders, launcher)


def ran(world: World, node: str) -> int:
    """How many workers worked on a node."""
    return len({pid for pid, _ in world.journal(node)})


def test_nodes_run_in_order_each_in_a_process_of_its_own(world: World) -> None:
    """B20: also with one warm server, no node runs in the parent or in another node's process."""
    done = world.run(chain())
    assert done["c"].result["text"] == "abc"
    assert (done["c"].path / "text.txt").read_text() == "abc"
    assert world.told.events == [(name, what) for name in "abc" for what in ("started", "FINISHED")]
    pids = {done[name].result["pid"] for name in "abc"}
    assert len(pids) == 3 and os.getpid() not in pids
    assert (done["b"].name, done["b"].kind, done["b"].payload["inputs"]) == ("b", "fake", {"init": done["a"].key})
    assert done["b"].provenance == {"pid": 0} and done["b"].hardware["name"] == "test"
    assert 0 <= done["b"].seconds < 60
    assert list((world.store.root / "work").iterdir()) == []


def test_what_is_there_is_not_made_again(world: World) -> None:
    world.run(chain())
    world.run(chain())
    assert [ran(world, name) for name in "abc"] == [1, 1, 1]
    done = world.run(changed(chain(), "b", text="B"))
    assert [ran(world, name) for name in "abc"] == [1, 2, 2]
    assert done["c"].result["text"] == "aBc"


def test_the_record_holds_what_a_worker_was_told_and_said(world: World) -> None:
    """B18, B21: one folder, chosen by the parent; a plain job file is all that travels."""
    record = world.run(chain())["a"]
    job = json.loads((record.path / "job.json").read_text())
    assert job["config"]["text"] == "a" and job["key"] == record.key
    lines = [json.loads(line) for line in (record.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(1, 2), (2, 2)]
    assert set(record.files) == {"text.txt", "job.json", "metrics.jsonl", "log.txt"}


def test_forced_again_the_old_one_is_kept(world: World) -> None:
    first = world.run(chain())["b"]
    second = world.run(chain(), Forced(force=("b",)))["b"]
    assert second.key == first.key and second.result["pid"] != first.result["pid"]
    assert [ran(world, name) for name in "abc"] == [1, 2, 1]
    assert len(list((world.store.root / "replaced").iterdir())) == 1


def test_from_makes_all_that_follows_again(world: World) -> None:
    world.run(chain())
    world.run(chain(), Forced(since=("b",)))
    assert [ran(world, name) for name in "abc"] == [1, 2, 2]


def test_only_without_what_it_needs_says_so_before_anything_runs(world: World) -> None:
    with pytest.raises(UserError, match=r"c needs b, which does not exist yet; drop --only"):
        world.run(chain(), Forced(only=("a", "c")))
    assert world.told.events == []
    world.run(chain(), Forced(only=("a", "b")))
    assert world.run(chain(), Forced(only=("c",)))["c"].result["text"] == "abc"


def test_equal_nodes_are_made_once(world: World) -> None:
    nodes = {"a": Fake(text="x"), "b": Fake(text="x"), "c": Fake(inputs={"one": "a", "two": "b"})}
    assert world.run(recipe(nodes))["c"].result["text"] == "xx"
    assert (ran(world, "a"), ran(world, "b")) == (1, 0)


def test_a_failing_node_stops_the_rest(world: World) -> None:
    """B42: the worker knows the token and may print it; what is shown and passed on does not hold it."""
    world.order("b", end="crash")
    with pytest.raises(StageFailed) as caught:
        world.run(chain())
    error = caught.value
    assert (error.node, error.reason) == ("b", "its worker ended with exit code 1")
    assert "RuntimeError: something broke" in error.tail and len(error.tail.splitlines()) <= 20
    assert "HF_TOKEN is <redacted>" in error.tail
    assert Path(error.log).name == "log.txt" and f"HF_TOKEN is {CANARY}" in Path(error.log).read_text()
    assert world.told.events == [("a", "started"), ("a", "FINISHED"), ("b", "started"), ("b", "FAILED")]
    assert ran(world, "c") == 0
    world.order("b")
    assert world.run(chain())["c"].result["text"] == "abc"
    assert ran(world, "a") == 1


def test_a_users_mistake_in_a_worker_is_the_users(world: World) -> None:
    world.order("b", end="user")
    with pytest.raises(UserError, match=r"^b: the text is not to my liking; write another$"):
        world.run(chain())
    assert world.told.events[-1] == ("b", "FAILED")
    world.order("b", end="crash", at=1)
    with pytest.raises(StageFailed):
        world.run(chain())  # the mistake of before is not told again


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("kill", "its worker ended with signal 9"),
        ("silent", "its worker ended with exit code 0, but without a result"),
        ("exit", "its worker ended with exit code 1"),
    ],
)
def test_other_ends(world: World, end: str, reason: str) -> None:
    world.order("a", end=end)
    with pytest.raises(StageFailed) as caught:
        world.run(chain())
    assert caught.value.reason == reason


def test_a_killed_node_goes_on_from_its_resume_point(world: World) -> None:
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    step = planned(chain(steps=6), world.store)["a"]
    assert (step.verdict, step.reason) == ("resume", "from step 4")
    world.order("a")
    done = world.run(chain(steps=6))
    assert done["a"].result["first"] == 4
    steps = [word for _, word in world.journal("a") if word.startswith("step")]
    assert steps == [f"step {number}" for number in range(6)], "nothing is done twice"
    assert [line["step"] for line in world.told.lines[:6]] == [1, 2, 3, 4, 5, 6], "nor told twice"
    lines = (done["a"].path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_forced_an_unfinished_node_begins_anew(world: World) -> None:
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    world.order("a")
    done = world.run(chain(steps=6), Forced(force=("a",)))
    assert done["a"].result["first"] == 0
    assert len((done["a"].path / "metrics.jsonl").read_text().splitlines()) == 6


def test_an_unfinished_node_without_a_resume_point_begins_anew(world: World) -> None:
    config = chain()
    step = planned(config, world.store)["a"]
    work = world.store.work_path("a", step.key)
    (work / "out").mkdir(parents=True)
    (work / "out" / "half.txt").write_text("half")
    (work / "metrics.jsonl").write_text('{"step": 1}\n')
    record = world.run(config)["a"]
    assert "half.txt" not in record.files
    assert len((record.path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_line_that_was_cut_off_does_not_spoil_the_next(world: World) -> None:
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    work = world.store.work_path("a", planned(chain(steps=6), world.store)["a"].key)
    with open(work / "metrics.jsonl", "a") as file:
        file.write('{"time": 17, "st')
    world.order("a")
    record = world.run(chain(steps=6))["a"]
    steps = [json.loads(line)["step"] for line in (record.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_result_whose_parent_died_before_the_commit_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of a large checkpoint take minutes: killed then, nothing is trained twice."""

    def cut_off(*words: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            world.run(chain())
    done = world.run(chain())
    assert ran(world, "a") == 1
    assert done["a"].result["text"] == "a" and done["a"].hardware["name"] == "test"
    assert world.run(chain(), Forced(force=("a",)))["a"].result["text"] == "a"
    assert ran(world, "a") == 2


def test_forced_a_leftover_result_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", lambda *words: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception):
            world.run(chain())
    world.run(chain(), Forced(force=("a",)))
    assert ran(world, "a") == 2


def test_what_a_worker_leaves_behind_goes_with_it(world: World) -> None:
    world.order("a", spawn=True)
    world.run(chain())
    [word] = [word for _, word in world.journal("a") if word.startswith("spawned")]
    wait_for(lambda: not _lives(int(word.split()[1])))


def test_progress_lines_arrive_whole(world: World) -> None:
    world.order("a", pause=0.01)
    world.run(chain(steps=30))
    assert [line["step"] for line in world.told.lines[:30]] == list(range(1, 31))
    assert world.told.lines[0]["metrics"] == {"train/loss": 1.0}


def test_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = tail(file)
    assert next(lines) == []
    for written, expected in [
        ('{"a": 1}\n{"a"', [{"a": 1}]),
        (": 2", []),
        ('}\n\n{"a": "ä"}\n', [{"a": 2}, {"a": "ä"}]),
        ("", []),
        ('{"a": 3}\n', [{"a": 3}]),
    ]:
        with open(file, "a") as handle:
            handle.write(written)
        assert next(lines) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_the_worker_is_stopped_and_watchers_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    world.order("a", hold=3)
    before = signal.signal(signal.SIGTERM, cli._interrupt)
    later(lambda: (wait_for(lambda: len(world.journal("a")) > 4), os.kill(os.getpid(), number))[0])
    try:
        with pytest.raises(KeyboardInterrupt):
            world.run(chain(steps=1000))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert world.told.events == [("a", "started"), ("a", "KILLED")]
    [pid] = {pid for pid, _ in world.journal("a")}
    assert not _lives(pid), "the worker has ended before the runner returns"
    assert planned(chain(steps=1000), world.store)["a"].verdict == "resume"
    assert world.run(chain())["a"].result["text"] == "a", "the same server serves the next job"


def test_a_worker_that_ignores_sigterm_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alma_pipeline.launch.STOP_SECONDS", 0.5)
    world.order("a", end="stubborn")
    later(lambda: (wait_for(lambda: len(world.journal("a")) > 1), time.sleep(0.3), os.kill(os.getpid(), signal.SIGINT))[0])
    with pytest.raises(KeyboardInterrupt):
        world.run(chain())
    [pid] = {pid for pid, _ in world.journal("a")}
    assert not _lives(pid)


def test_a_published_checkpoint_is_not_replaced_by_training(world: World) -> None:
    """An adopted node's key says that somebody else trained it."""
    plan = planned(chain(), world.store)
    steps = [dataclasses.replace(step, verdict="adopt", reason="someone/a@1") for step in plan.steps]
    runner = Runner(world.store, chain().hardware, world.launcher, [world.told], {})
    with pytest.raises(UserError, match=r"someone/a@1.*upstream=train"):
        runner.run(Plan(steps))
    assert world.told.events == []


def test_how_to_load_a_checkpoint(world: World) -> None:
    """B14, B16: the full model by key, and the adapters on it in order."""
    nodes = {
        "base": Fake(text="b"),
        "sft": Fake(text="s", adapter="new", inputs={"init": "base"}),
        "more": Fake(text="m", adapter="continue", inputs={"init": "sft"}),
        "merged": Fake(text="n", adapter="merge_then_new", inputs={"init": "more"}),
        "full": Fake(text="f", inputs={"init": "merged"}),
    }
    done = world.run(recipe(nodes))
    key = {name: record.key for name, record in done.items()}
    found = {name: (record.checkpoint["base_key"], record.checkpoint["adapter_keys"]) for name, record in done.items()}
    assert found == {
        "base": (key["base"], []),
        "sft": (key["base"], [key["sft"]]),
        "more": (key["base"], [key["more"]]),
        "merged": (key["base"], [key["more"], key["merged"]]),
        "full": (key["full"], []),
    }
    job = json.loads((done["full"].path / "job.json").read_text())
    init = job["inputs"]["init"]
    assert init["base"] == str(done["base"].path) and init["base_key"] == key["base"]
    assert init["adapters"] == [str(done["more"].path), str(done["merged"].path)]


def test_a_checkpoint_without_what_it_stands_on_is_refused(world: World) -> None:
    nodes = {"base": Fake(text="b"), "sft": Fake(text="s", adapter="new", inputs={"init": "base"})}
    done = world.run(recipe(nodes))
    (done["base"].path / "text.txt").unlink()
    after = nodes | {"more": Fake(text="m", adapter="continue", inputs={"init": "sft"})}
    with pytest.raises(UserError, match=f"stands on the artifact {done['base'].key[:12]}, which is gone"):
        world.run(recipe(after))


def test_no_checkpoint_for_what_makes_none() -> None:
    assert checkpoint("k", None, {"counts": {}}) == {}  # type: ignore[arg-type]


def test_a_dead_server_is_said_so_and_the_next_job_gets_another(world: World) -> None:
    """B24: one lost server must not spoil the jobs after it; nor pass for a closed output."""
    world.run(chain(), Forced(only=("a",)))
    world.launcher.server.process.kill()
    world.launcher.server.process.wait()
    assert world.run(chain())["c"].result["text"] == "abc"


NOISY = '"$@"; code=$?; for i in $(seq 40); do echo "launcher line $i"; done; exit $((code ? 1 : 0))'


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [("user", UserError, "a: the text is not to my liking"), ("crash", StageFailed, "its worker ended with exit code 1")],
)
def test_what_went_wrong_is_found_behind_what_the_launcher_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, kind: type[Exception], said: str
) -> None:
    """torchrun ends with exit code 1 whatever its workers did, and prints a page of its own below their words."""

    def noisy(hardware: Hardware, work: Path, token: str) -> list[str]:
        return ["sh", "-c", NOISY, "sh", sys.executable, "-m", "alma_pipeline.worker", str(work), token]

    monkeypatch.setattr(launch, "command", noisy)
    hardware = Hardware(name="x", launcher="torchrun")
    with fake_world(monkeypatch, tmp_path) as orders:
        world = World(tmp_path, orders, Launcher(hardware, tmp_path))
        world.order("a", end=end)
        with pytest.raises(kind, match=said) as caught:
            world.run(chain(kind=FakeMany, hardware=hardware))
        world.launcher.close()
    if isinstance(caught.value, StageFailed):
        assert "something broke" in caught.value.tail and "launcher line" not in caught.value.tail


# Two or more parents at once, and parents that are killed. Each is a process of its own (fakes/parent.py).


class Parents:
    """Starts parent processes on one store, and reads what their workers did."""

    def __init__(self, root: Path, orders: Path, mode: str, steps: int) -> None:
        self.root, self.orders, self.mode, self.steps = root / "store", orders, mode, steps
        self.started: list[subprocess.Popen[str]] = []

    def start(self) -> "subprocess.Popen[str]":
        command = parent(self.root, self.mode, self.steps)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
        parents.order(name, pause=0.03)
    for more in (0, 1, 12, 0):
        process, before = parents.start(), parents.written()
        if more:  # while a worker works; else while the parent starts up
            wait_for(lambda before=before, more=more: parents.written() >= before + more)
        time.sleep(moments.uniform(0.0, 0.1 if more else 1.0))
        process.send_signal(signal.SIGKILL)
    assert "text abc" in parents.finish(parents.start())
    for name in "abc":
        assert_one_writer(parents.journal(name), parents.steps)
    pids = {pid for name in "abc" for pid, _ in parents.journal(name)}
    wait_for(lambda: not any(map(_lives, pids)))
    assert list((parents.root / "work").iterdir()) == []


def test_an_orphan_ends_by_itself(parents: Parents) -> None:
    """Also when nobody comes after it."""
    parents.order("a", hold=3)
    process = parents.start()
    pid = parents.worked(process, 3)
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: not _lives(pid))
    parents.go("a")
    assert "text abc" in parents.finish(parents.start())
    assert_one_writer(parents.journal("a"), parents.steps)
    assert len({pid for pid, _ in parents.journal("a")}) == 2


def test_a_killed_worker_is_a_failure_and_the_next_run_goes_on(parents: Parents) -> None:
    parents.order("a", hold=3)
    process = parents.start()
    os.kill(parents.worked(process, 3), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "a: its worker ended with signal 9" in output
    parents.go("a")
    assert "text abc" in parents.finish(parents.start())
    assert_one_writer(parents.journal("a"), parents.steps)


def test_two_parents_at_once_make_each_node_once(parents: Parents) -> None:
    parents.order("a", hold=3)
    first = parents.start()
    parents.worked(first, 1)
    second = parents.start()
    assert parents.line(second).startswith("waiting a: another process is making it")
    parents.go("a")
    outputs = [parents.finish(first), parents.finish(second)]
    assert all("text abc" in output for output in outputs)
    for name in "abc":
        assert_one_writer(parents.journal(name), parents.steps)
        assert len({pid for pid, _ in parents.journal(name)}) == 1
        assert sum(f"{name} FINISHED" in output for output in outputs) == 1


def test_who_waited_for_a_parent_that_died_goes_on_where_it_was(parents: Parents) -> None:
    """Its plan knew of no resume point; the work folder does."""
    parents.order("a", hold=3)
    first = parents.start()
    parents.worked(first, 4)
    second = parents.start()
    assert parents.line(second).startswith("waiting a: another process is making it")
    first.send_signal(signal.SIGKILL)
    parents.go("a")
    assert "text abc" in parents.finish(second)
    assert_one_writer(parents.journal("a"), parents.steps)


def test_interrupted_nothing_is_left_running(parents: Parents) -> None:
    parents.order("a", hold=3)
    process = parents.start()
    parents.worked(process, 3)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "a KILLED" in output
    assert children and not any(_lives(child.pid) for child in children)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
