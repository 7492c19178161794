"""Workers that end for another one to continue: given notice, without their allocation, or on a full device."""

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stages.fake.config import Config as Fake

from alma_pipeline.cli import interruption
from alma_pipeline.cli.interruption import ENDING, handle_signals, message
from alma_pipeline.errors import Interrupted, StageFailed
from alma_pipeline.execution import restart, runner
from alma_pipeline.execution.attempt import Attempt
from alma_pipeline.job import Job
from helpers.fake_stages.recipes import LOCAL, chain, planned
from helpers.fake_stages.world import World
from helpers.processes import interrupt_when


@pytest.fixture
def handled() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    handle_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_the_worker_write_a_resume_point(world: World, handled: None, number: int) -> None:
    world.order("a", hold=3)
    interrupt_when(lambda: len(world.journal("a")) > 4, number=number)
    with pytest.raises(Interrupted) as caught:
        world.run(chain(steps=1000))
    name = signal.Signals(number).name
    assert message(caught.value) == (
        f"interrupted by {name}; a resumes from step 3; finished work is kept, and the same command resumes from there"
    )
    assert world.told.events == [("a", "started"), ("a", "KILLED")]
    assert any("waiting up to" in text and "a resume point of a" in text for text in world.told.texts)
    assert "interrupted by a notice after step 3" in (world.store.work_path("a", _key(world)) / "log.txt").read_text()
    world.order("a")
    assert world.run(chain(steps=1000))["a"].result["first"] == 3


def test_a_worker_that_takes_no_notice_is_ended_when_its_time_is_over(
    world: World, handled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "END_SECONDS", 0.3)
    world.order("a", hold=3, deaf=True)
    interrupt_when(lambda: len(world.journal("a")) > 4, number=signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        world.run(chain(steps=1000))
    assert caught.value.left == ["a resumes from step 3"]
    assert world.told.events == [("a", "started"), ("a", "KILLED")]


def test_a_second_sigterm_ends_the_waiting(world: World, handled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "ONE_SIGNAL_SECONDS", 0.1)
    world.order("a", hold=3, deaf=True)
    interrupt_when(lambda: len(world.journal("a")) > 4, number=signal.SIGTERM)
    interrupt_when(lambda: world.told.texts, number=signal.SIGTERM, pause=0.3)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        world.run(chain(steps=1000))
    assert time.monotonic() - began < runner.END_SECONDS / 2


def test_without_its_allocation_a_node_continues_as_long_as_it_gets_further(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder stays the same, and with it the MLflow run."""
    # A worker forked here plays one that srun started.
    monkeypatch.setattr(Fake, "distributed", True)
    server = world.launcher.server
    assert server
    monkeypatch.setattr(world.launcher, "start", lambda work, token, distributed: server.start(work, token))
    world.order("a", end="allocation", at=2)
    record = world.run(chain(steps=4, hardware=dataclasses.replace(LOCAL, launcher="slurm")))["a"]
    assert record.result["first"] == 3
    assert world.told.events[:3] == [("a", "started"), ("a", "restarts"), ("a", "started")]
    assert world.told.texts == ["a: its allocation was ended by Slurm (time limit); it continues from step 3"]
    lines = [json.loads(line)["step"] for line in (record.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4]


def test_a_node_that_gets_no_further_is_an_error(world: World) -> None:
    world.order("a", end="stuck")
    with pytest.raises(StageFailed, match=r"a: interrupted by SIGUSR1, before it got further .* \(from the beginning\)"):
        world.run(chain())
    assert world.ran("a") == 1


@pytest.mark.parametrize(
    ("lost", "advice"),
    [
        ("time limit", "raise hardware.time_limit=24:00:00: too short for one step, an evaluation and a resume point"),
        ("preemption", "the same command tries again"),
    ],
)
def test_only_a_time_limit_is_called_too_short(lost: str, advice: str) -> None:
    hardware = dataclasses.replace(LOCAL, launcher="slurm")
    wanted = restart.Restart(f"its allocation was ended by Slurm ({lost})")
    text = restart.no_progress(hardware, Fake(), wanted, (40, 0))
    assert text == f"{wanted.reason}, before it got further than where it had started (from step 40); {advice}"


def test_sigterm_from_elsewhere_ends_a_worker_for_good(world: World) -> None:
    """As scancel does: nobody wants a new allocation then."""
    world.order("a", end="term")
    with pytest.raises(StageFailed, match="a: interrupted by SIGTERM after step 1; the same command resumes from step 1"):
        world.run(chain())
    world.order("a")
    assert world.run(chain())["a"].result["first"] == 1


def test_on_a_full_device_the_budget_is_halved_and_the_record_says_so(world: World) -> None:
    world.order("a", fits=2048)
    record = world.run(chain())["a"]
    assert record.hardware["micro_batch_tokens"] == 2048
    assert record.provenance["lowered"] == "the device ran out of memory: hardware.micro_batch_tokens 4096 → 2048"
    assert [name for node, name in world.told.events if node == "a"] == ["started", "restarts", "started", "FINISHED"]
    assert world.told.texts[0] == (
        "a: the device ran out of memory; it continues from step 1 with hardware.micro_batch_tokens=2048 (was 4096), "
        "which changes no result"
    )


def test_a_lowered_budget_outlives_the_command_but_not_another_setting(tmp_path: Path) -> None:
    restart.remember_budget(tmp_path, 4096, 2048)
    restart.remember_budget(tmp_path, 2048, 1024)
    assert restart.lowered_hardware(tmp_path, LOCAL).micro_batch_tokens == 1024
    assert restart.provenance(tmp_path)["lowered"].endswith("micro_batch_tokens 4096 → 2048 → 1024")
    assert restart.lowered_hardware(tmp_path, dataclasses.replace(LOCAL, micro_batch_tokens=3000)).micro_batch_tokens == 3000


def test_without_scontrol_the_command_says_that_its_job_is_not_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_TASK_PID", str(os.getpid()))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "`scontrol requeue 7` failed: " in interruption.requeue(Interrupted(signal.SIGUSR1))
    assert interruption.requeue(Interrupted(signal.SIGTERM)) == ""


def test_what_ranks_of_other_machines_left_is_looked_for_anew(world: World) -> None:
    """NFS may still remember that a file is missing; a change of the folder by this machine ends that."""
    step = planned(chain(), world.store)["a"]
    work = world.store.begin("a", step.key)
    attempt = Attempt(step, work, Job("a", step.key, str(work.path), step.config, LOCAL, {}))
    for folder in (work.path / "out", work.path / "resume"):
        folder.mkdir()
    (work.path / "result.json").write_text("{}")
    for folder in (work.path, work.path / "resume"):
        os.utime(folder, (0, 0))
    assert attempt.has_ended()
    assert work.path.stat().st_mtime and (work.path / "resume").stat().st_mtime
    assert not list(work.path.rglob(".look*"))
    work.close()


def test_a_setting_that_was_changed_is_lowered_in_its_turn(tmp_path: Path) -> None:
    """Otherwise each start would have the changed setting again, and run out of memory again, without end."""
    restart.remember_budget(tmp_path, 4096, 2048)
    changed = dataclasses.replace(LOCAL, micro_batch_tokens=3000)
    restart.remember_budget(tmp_path, 3000, 1500)
    assert restart.lowered_hardware(tmp_path, changed).micro_batch_tokens == 1500
    assert restart.lowered_hardware(tmp_path, LOCAL).micro_batch_tokens == 2048
    assert restart.provenance(tmp_path)["lowered"].endswith("micro_batch_tokens 4096 → 2048 → 3000 → 1500")


def _key(world: World) -> str:
    return planned(chain(steps=1000), world.store)["a"].key
