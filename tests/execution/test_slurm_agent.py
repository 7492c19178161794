"""The agent that srun starts, without Slurm: its commands are played by scripts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.errors import UserError
from alma_pipeline.execution import slurm_agent
from alma_pipeline.execution.launch import Launcher, command
from alma_pipeline.schema import Hardware
from helpers import ROOT
from helpers.fake_stages.recipes import recipe
from helpers.fake_stages.world import World

WORKER = [str(ROOT / "alma_pipeline" / "start.py"), "alma_pipeline.execution.worker", "/s/work/mono-3f", "T"]

Played = Callable[[str, str], None]


def test_the_agent_meets_on_the_first_node(played: Played) -> None:
    answers = {
        "show hostnames n[1-2]": "n1\\nn2",
        "show node n1": "NodeName=n1\\n   NodeAddr=first.cluster Port=6818",
    }
    tests = [f'test "$*" = "{words}" && printf "{text}"' for words, text in answers.items()]
    played("scontrol", "\n".join([*tests, "true"]))
    step = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_NODELIST": "n[0-9]", "SLURM_JOB_ID": "100007", "SLURM_STEP_ID": "1"}
    words = {node: slurm_agent.meeting_options(step | {"SLURM_NODEID": node}) for node in ("0", "1")}
    endpoint = f"--rdzv-endpoint=first.cluster:{slurm_agent.rendezvous_port('100007', '1')}"
    assert words["0"] == ["--rdzv-backend=static", endpoint, "--node-rank=0"]
    assert words["1"] == ["--rdzv-backend=static", endpoint, "--node-rank=1"]


def test_ports_differ_between_steps_and_stay_free_of_clients() -> None:
    found = {slurm_agent.rendezvous_port(str(job), str(step)) for job in range(4_000_000, 4_000_040) for step in range(20)}
    assert len(found) == 800
    assert min(found) >= 15000 and max(found) < 32768


@pytest.mark.parametrize(
    ("variables", "script", "said"),
    [
        ({}, "true", "not in a Slurm step"),
        (
            {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n1"},
            "echo 'bad list' >&2; exit 1",
            "show hostnames n1` failed: bad list",
        ),
    ],
)
def test_the_agent_says_what_is_wrong(played: Played, variables: dict[str, str], script: str, said: str) -> None:
    played("scontrol", script)
    with pytest.raises(UserError, match=said):
        slurm_agent.meeting_options(variables)


def test_without_scontrol_the_agent_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol must be on the PATH of every machine"):
        slurm_agent.first_host("n1")


def test_the_agent_becomes_torchrun(played: Played, tmp_path: Path) -> None:
    """The whole chain of processes from srun on, with a torchrun that only tells how it was called."""
    played("scontrol", "echo localhost")  # of a version that shows no NodeAddr
    played("srun", 'while [ "$1" != "$PYTHON" ]; do shift; done; exec "$@"')
    shadow = tmp_path / "shadow" / "torch" / "distributed"
    shadow.mkdir(parents=True)
    (shadow.parent / "__init__.py").write_text("")
    (shadow / "__init__.py").write_text("")
    (shadow / "run.py").write_text("import sys; print(*sys.argv[1:])")
    step = {"SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    values = {**os.environ, **step, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "shadow")}
    words = command(Hardware(name="x", launcher="slurm"), Path("/s/work/mono-3f"), "T")
    done = subprocess.run(words, env=values, capture_output=True, text=True, check=True)
    port = slurm_agent.rendezvous_port("7", "0")
    assert done.stdout.splitlines()[-1].split() == [
        *("--rdzv-backend=static", f"--rdzv-endpoint=localhost:{port}", "--node-rank=0"),
        *("--nnodes=1", "--nproc-per-node=1", "--rdzv-id=mono-3f"),
        *WORKER,
    ]


def test_more_ranks_than_cores_are_an_error_before_anything_is_loaded(orders: Path, tmp_path: Path, played: Played) -> None:
    """As where Slurm gives a task one core; the agent writes down why, and the command ends as with any mistake in a request."""
    core = min(os.sched_getaffinity(0))
    played("srun", f'while [ "$1" != {sys.executable} ]; do shift; done; SLURMD_NODENAME=n9 exec taskset -c {core} "$@"')
    hardware = Hardware(name="x", launcher="slurm", nodes=2, devices=2)
    world = World(tmp_path, orders, Launcher(hardware, tmp_path))
    try:
        with pytest.raises(UserError, match=r"a: n9: 2 ranks, 1 core \(.*set hardware\.srun=\[--cpus-per-task=N\]"):
            world.run(recipe({"a": FakeMany(text="a")}, hardware=hardware))
    finally:
        world.launcher.close()
    assert world.journal("a") == []
