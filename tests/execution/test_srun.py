"""srun's words, as they are composed; tests/execution/test_slurm_agent_cluster.py shows what Slurm does with them."""

from typing import Any

import pytest

from alma_pipeline.execution.srun import srun
from alma_pipeline.schema import Hardware

ALWAYS = ["--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=1", "--wait=0", "--export=ALL"]
REQUEST = ["srun", "--nodes=2", "--exclusive", "--time=24:00:00", "--signal=USR1@300", "--job-name=alma_pipeline"]
TASKS = ["--ntasks=2", "--ntasks-per-node=1"]


def words(**settings: Any) -> list[str]:
    return srun(Hardware(name="x", launcher="slurm", nodes=2, devices=4, **settings))


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_whole_machines_are_requested_without_a_number_of_tasks() -> None:
    """With --ntasks beside --exclusive each machine's task gets one core."""
    assert words() == [*REQUEST, *ALWAYS]
    assert words(device="cuda") == [*REQUEST, *ALWAYS, "--gpus-per-node=4"]


def test_where_cores_are_named_tasks_are_too() -> None:
    """srun would fill the machines with as many tasks as have so many cores."""
    assert words(threads=6) == [*REQUEST, *ALWAYS, "--cpus-per-task=24", *TASKS]
    assert words(srun=["--cpus-per-task=8"]) == [*REQUEST, *ALWAYS, "--cpus-per-task=8", *TASKS]


def test_in_an_allocation_all_of_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """There --exclusive would mean one core; the time, the partition and the machines' features are the allocation's."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    found = words(partition="gpu", account="mt", srun=["--mpi=none", "--constraint=a100"])
    assert found == ["srun", "--nodes=2", "--overlap", *ALWAYS, "--mpi=none", *TASKS]


def test_settings_of_the_request() -> None:
    found = words(partition="gpu", account="mt", time_limit="2:00:00")
    assert found[2:6] == ["--exclusive", "--time=2:00:00", "--signal=USR1@300", "--job-name=alma_pipeline"]
    assert found[6:8] == ["--partition=gpu", "--account=mt"]


@pytest.mark.parametrize(
    ("word", "replaced"),
    [
        ("--mem=64G", "--mem=0"),
        ("--mem-per-cpu=2G", "--mem=0"),
        ("--gres=gpu:a100:4", "--gpus-per-node=4"),
        ("--cpu-bind=sockets", "--cpu-bind=none"),
        ("--job-name=mt", "--job-name=alma_pipeline"),
    ],
)
def test_a_word_of_the_site_replaces_the_one_that_decides_the_same(word: str, replaced: str) -> None:
    found, without = words(device="cuda", srun=[word]), words(device="cuda")
    assert replaced in without and found == [*(other for other in without if other != replaced), word]


def test_on_shared_machines_the_number_of_tasks_is_named() -> None:
    assert words(srun=["--oversubscribe"]) == ["srun", "--nodes=2", *REQUEST[3:], *ALWAYS, "--oversubscribe", *TASKS]


def test_commands_that_share_hardware_share_their_launcher() -> None:
    """A list has no hash, and launchers are kept by hardware."""
    one, same, other = (Hardware(name="x", launcher="slurm", srun=[word]) for word in ("--qos=a", "--qos=a", "--qos=b"))
    assert {one: 1}.get(same) == 1 and {one: 1}.get(other) is None
