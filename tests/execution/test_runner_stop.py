"""Interrupted, a runner leaves no process behind."""

import signal

import pytest

from alma_pipeline.cli.interruption import ENDING, exit_code, handle_signals
from alma_pipeline.execution import fork_client, processes
from helpers.fake_stages.recipes import chain, planned
from helpers.fake_stages.world import World
from helpers.processes import interrupt_when, lives, wait_for


def test_what_a_worker_leaves_behind_goes_with_it(world: World) -> None:
    world.order("a", spawn=True)
    world.run(chain())
    [word] = [word for _, word in world.journal("a") if word.startswith("spawned")]
    wait_for(lambda: not lives(int(word.split()[1])))


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_interrupted_the_worker_is_stopped_and_watchers_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    world.order("a", hold=3)
    before = {ending: signal.getsignal(ending) for ending in ENDING}
    handle_signals()
    interrupt_when(lambda: len(world.journal("a")) > 4, number=number)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            world.run(chain(steps=1000))
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
    assert exit_code(caught.value) == 128 + number
    assert world.told.events == [("a", "started"), ("a", "KILLED")]
    [pid] = {pid for pid, _ in world.journal("a")}
    assert not lives(pid), "the worker has ended before the runner returns"
    assert planned(chain(steps=1000), world.store)["a"].verdict == "resume"
    assert world.run(chain())["a"].result["text"] == "a", "the same server serves the next job"


def test_a_worker_that_ignores_sigterm_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(fork_client, "STOP_SECONDS", 0.5)
    world.order("a", end="stubborn")
    interrupt_when(lambda: len(world.journal("a")) > 1, pause=0.3)
    with pytest.raises(KeyboardInterrupt):
        world.run(chain())
    [pid] = {pid for pid, _ in world.journal("a")}
    assert not lives(pid)
