"""The real runner, server, worker and store on fake stages: order, records, and every way a node can end."""

import json
import os
import sys
from pathlib import Path

import pytest
from stages.fake.config import Config as Fake
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.errors import StageFailed, UserError
from alma_pipeline.execution import launch
from alma_pipeline.execution.attempt import follow_metrics
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.plan.plan import Rerun
from alma_pipeline.schema import Hardware
from helpers.fake_stages.recipes import chain, changed, recipe
from helpers.fake_stages.world import CANARY, World, fake_world


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
    assert [world.ran(name) for name in "abc"] == [1, 1, 1]
    done = world.run(changed(chain(), "b", text="B"))
    assert [world.ran(name) for name in "abc"] == [1, 2, 2]
    assert done["c"].result["text"] == "aBc"


def test_what_is_made_again_keeps_its_place_among_what_is_reused(world: World) -> None:
    world.run(chain())
    assert list(world.run(chain(), Rerun(only=("a",), force=("a",)))) == ["a", "b", "c"]


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
    second = world.run(chain(), Rerun(force=("b",)))["b"]
    assert second.key == first.key and second.result["pid"] != first.result["pid"]
    assert [world.ran(name) for name in "abc"] == [1, 2, 1]
    assert len(list((world.store.root / "replaced").iterdir())) == 1


def test_from_makes_all_that_follows_again(world: World) -> None:
    world.run(chain())
    world.run(chain(), Rerun(from_=("b",)))
    assert [world.ran(name) for name in "abc"] == [1, 2, 2]


def test_only_without_what_it_needs_says_so_before_anything_runs(world: World) -> None:
    with pytest.raises(UserError, match=r"c needs b, which does not exist yet; drop --only"):
        world.run(chain(), Rerun(only=("a", "c")))
    assert world.told.events == []
    world.run(chain(), Rerun(only=("a", "b")))
    assert world.run(chain(), Rerun(only=("c",)))["c"].result["text"] == "abc"


def test_equal_nodes_are_made_once(world: World) -> None:
    nodes = {"a": Fake(text="x"), "b": Fake(text="x"), "c": Fake(inputs={"one": "a", "two": "b"})}
    assert world.run(recipe(nodes))["c"].result["text"] == "xx"
    assert (world.ran("a"), world.ran("b")) == (1, 0)


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
    assert world.ran("c") == 0
    world.order("b")
    assert world.run(chain())["c"].result["text"] == "abc"
    assert world.ran("a") == 1


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
        ("kill", "its worker was killed (signal 9)"),
        ("silent", "its worker ended with exit code 0 but left no result"),
        ("exit", "its worker ended with exit code 1"),
    ],
)
def test_other_ends(world: World, end: str, reason: str) -> None:
    world.order("a", end=end)
    with pytest.raises(StageFailed) as caught:
        world.run(chain())
    assert caught.value.reason.startswith(reason)


def test_progress_lines_arrive_whole(world: World) -> None:
    world.order("a", pause=0.01)
    world.run(chain(steps=30))
    assert [line["step"] for line in world.told.lines[:30]] == list(range(1, 31))
    assert world.told.lines[0]["metrics"] == {"train/loss": 1.0}


def test_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = follow_metrics(file)
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


def test_a_dead_server_is_said_so_and_the_next_job_gets_another(world: World) -> None:
    """B24: one lost server must not spoil the jobs after it; nor pass for a closed output."""
    world.run(chain(), Rerun(only=("a",)))
    server = world.launcher.server
    assert server
    server.process.kill()
    server.process.wait()
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
        return ["sh", "-c", NOISY, "sh", sys.executable, "-m", "alma_pipeline.execution.worker", str(work), token]

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
