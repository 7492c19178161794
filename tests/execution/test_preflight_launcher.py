"""What a launcher needs on this machine is missed before anything runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.errors import UserError
from alma_pipeline.execution import preflight
from alma_pipeline.plan.plan import Plan, Rerun, make_plan
from alma_pipeline.schema import Hardware
from alma_pipeline.store.store import Store

Played = Callable[[str, str], None]


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def planned(folder: Path, *words: str, rerun: Rerun | None = None) -> tuple[Plan, Hardware]:
    settings = load.load(["stage=mono", "hardware=slurm", *words])
    return make_plan(settings, Store(folder / "store"), rerun), settings.hardware


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["hardware.launcher=slurm"],
            "hardware.launcher=slurm with hardware.nodes=2 starts processes with srun, which is not on",
        ),
        (
            ["hardware.launcher=deepspeed", "hardware.hostfile=hosts"],
            "starts processes with pdsh.*\nhardware.hostfile=hosts: no such",
        ),
    ],
)
def test_a_plan_reports_what_its_launcher_lacks(tmp_path: Path, settings: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        preflight.check(*planned(tmp_path, *settings))


@pytest.mark.usefixtures("nothing")
def test_where_nothing_runs_on_several_processes_no_launcher_is_needed(tmp_path: Path) -> None:
    preflight.check(*planned(tmp_path, rerun=Rerun(only=("base",))))


def test_an_allocation_that_is_too_small_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """Not after hours of preparation in its first machine."""
    played("srun", "true")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    with pytest.raises(
        UserError, match=r"hardware.nodes=2, but job 7, in which this runs, has 1 machine; set hardware.nodes=1, or"
    ):
        preflight.check_launcher(Hardware(name="x", launcher="slurm", nodes=2))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    preflight.check_launcher(Hardware(name="x", launcher="slurm", nodes=2))


def test_programs_and_files_that_are_there(played: Played, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("first slots=8\n")
    for launcher, program in (("slurm", "srun"), ("deepspeed", "pdsh"), ("torchrun", "torchrun")):
        played(program, "true")
        preflight.check_launcher(Hardware(name="x", launcher=launcher, nodes=2, hostfile=str(tmp_path / "hosts")))
