"""Two nodes at a time: those that do not need each other."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
from stages.fake.config import Config as Fake

from alma_pipeline.errors import StageFailed
from alma_pipeline.execution.processes import worker_environment
from alma_pipeline.plan.step import Step
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import LOCAL, PAIR, diamond, recipe
from helpers.fake_stages.world import World, fake_world, journal, parent
from helpers.processes import interrupt_when, later, lives, wait_for


def go(world: World, node: str) -> None:
    (world.orders / f"{node}.go").touch()


def started(world: World, node: str) -> bool:
    return (node, "started") in world.told.events


def test_nodes_that_do_not_need_each_other_run_at_the_same_time(world: World) -> None:
    world.order("b", hold=1)
    world.order("c", hold=1)

    def both_run() -> None:
        wait_for(lambda: len(world.journal("b")) > 1 and len(world.journal("c")) > 1)
        assert not started(world, "d")
        go(world, "c")
        wait_for(lambda: ("c", "FINISHED") in world.told.events)
        go(world, "b")

    watching = later(both_run)
    done = world.run(diamond())
    watching.join()
    assert set(done) == set("abcd")
    assert world.told.events.index(("c", "FINISHED")) < world.told.events.index(("b", "FINISHED"))
    assert world.told.events[-2:] == [("d", "started"), ("d", "FINISHED")]
    assert all(world.ran(node) == 1 for node in "abcd")


def test_one_at_a_time_unless_the_hardware_says_otherwise(world: World) -> None:
    world.run(diamond(hardware=LOCAL))
    assert world.told.events == [(node, event) for node in "abcd" for event in ("started", "FINISHED")]


def test_a_failure_stops_what_runs_beside_it_and_the_next_run_goes_on(world: World) -> None:
    world.order("b", hold=2)
    world.order("c", end="crash")
    with pytest.raises(StageFailed, match=r"^c: "):
        world.run(diamond(50))
    assert ("c", "FAILED") in world.told.events and ("b", "KILLED") in world.told.events
    assert not started(world, "d") and not any(lives(pid) for pid, _ in world.journal("b"))
    world.order("c")
    go(world, "b")
    assert set(world.run(diamond(50))) == set("abcd")


def test_interrupted_both_are_stopped(world: World) -> None:
    for name in "bc":
        world.order(name, hold=1)
    interrupt_when(lambda: all(len(world.journal(n)) > 1 for n in "bc"))
    with pytest.raises(KeyboardInterrupt):
        world.run(diamond(50))
    assert {("b", "KILLED"), ("c", "KILLED")} <= set(world.told.events)
    assert not any(lives(pid) for name in "bc" for pid, _ in world.journal(name))


def test_equal_nodes_side_by_side_are_made_once(world: World) -> None:
    nodes = {"a": Fake(text="x", steps=3), "b": Fake(text="x", steps=3), "c": Fake(text="c", inputs={"init": "a", "other": "b"})}
    done = world.run(recipe(nodes, hardware=PAIR))
    assert done["a"].key == done["b"].key and world.ran("a") + world.ran("b") == 1


def test_a_node_that_does_not_fit_on_the_disk_waits_for_those_that_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They delete their resume points when they finish."""
    world.order("b", pause=0.05)

    def shortage(step: Step, store: Store) -> str:
        return "too little" if step.node.name == "c" and not list((store.root / "artifacts").glob("b-*")) else ""

    monkeypatch.setattr("alma_pipeline.plan.disk_space.node_shortage", shortage)
    assert world.run(diamond())["d"].result["text"] == "abacd"
    assert world.told.events.index(("b", "FINISHED")) < world.told.events.index(("c", "started"))


def test_two_parents_do_not_wait_for_each_other_in_a_circle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each may hold a node that the other wants while it runs one itself."""
    with fake_world(monkeypatch, tmp_path) as orders:
        for name in "abcd":
            (orders / f"{name}.json").write_text('{"pause": 0.01}')
        command = parent(tmp_path / "store", "beside", 20)
        parents = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
        for process in parents:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0 and "text abacd" in output, output
        assert all(len({pid for pid, _ in journal(orders, node)}) == 1 for node in "abcd")


def test_the_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert worker_environment(PAIR, 1)["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert worker_environment(LOCAL, 1)["OMP_NUM_THREADS"] == str(cores)


def test_torch_gets_segments_that_grow_on_a_gpu_unless_its_allocator_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    card = dataclasses.replace(LOCAL, device="cuda")
    assert worker_environment(card, 1)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in worker_environment(LOCAL, 1)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert "PYTORCH_ALLOC_CONF" not in worker_environment(card, 1)


def test_a_workers_output_is_utf8_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is read as UTF-8, and a library that prints a name must not end a training."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert worker_environment(LOCAL, 1)["PYTHONIOENCODING"] == "utf-8"
