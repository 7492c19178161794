"""Launchers that are not ours, with two processes on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stages.fake_many.config import Config as FakeMany

from alma_pipeline import start
from alma_pipeline.execution.launch import ONE_MACHINE, Launcher, torchrun
from alma_pipeline.execution.processes import LOOPBACK, worker_environment
from alma_pipeline.execution.slurm_agent import meeting_options
from alma_pipeline.schema import Hardware
from helpers import PYTHONPATH
from helpers.fake_stages.recipes import recipe
from helpers.fake_stages.world import World, journal
from helpers.processes import lives, wait_for

HARDWARE = Hardware(name="x", launcher="slurm", nodes=2)
PDSH = """
echo "$*" > {words}
while [ "$1" != -w ]; do shift; done
shift 2
for number in 0 1; do
    env -i PATH=/usr/bin:/bin HOME=/nonexistent sh -c "$(echo "$*" | sed s/%n/$number/)" &
done
wait
"""
"""Runs the command for each host here, as if logged in by ssh."""
Prepared = Callable[..., tuple[Path, str]]
Played = Callable[[str, str], None]


def ranks(orders: Path) -> set[str]:
    return {word for _, word in journal(orders, "a")}


@pytest.mark.slow
def test_two_processes_through_the_deepspeed_launcher(orders: Path, tmp_path: Path, played: Played) -> None:
    """B17: both ranks get our arguments and no others; rank 0 alone writes the result (B18)."""
    played("ssh", 'while [ "$1" != localhost ]; do shift; done; shift; exec "$@"')
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    hardware = Hardware(name="two", launcher="deepspeed", devices=2, hostfile=str(hosts))
    world = World(tmp_path, orders, Launcher(hardware, tmp_path))
    done = world.run(recipe({"a": FakeMany(text="a")}, hardware=hardware))
    assert done["a"].result["text"] == "a" and "rank 1" in ranks(orders)
    assert (done["a"].path / "log.txt").read_text().startswith(f"$ {sys.executable} -P -m deepspeed")
    world.launcher.close()


@pytest.mark.slow
def test_two_machines_through_the_deepspeed_launcher(
    orders: Path, tmp_path: Path, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process on each; a login by ssh brings no variables but those that DeepSpeed exports."""
    played("ssh", 'while [ "$1" != first ]; do shift; done; test "$3" = -I && echo 127.0.0.1 || true')
    played("pdsh", PDSH.format(words=tmp_path / "words"))
    hosts = tmp_path / "hosts"
    hosts.write_text("first slots=1\nsecond slots=1\nthird slots=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", LOOPBACK)
    (tmp_path / ".deepspeed_env").write_text(f"FAKE_ORDERS={orders}\n")
    hardware = Hardware(name="two", launcher="deepspeed", nodes=2, hostfile="hosts")
    world = World(tmp_path, orders, Launcher(hardware, tmp_path))
    done = world.run(recipe({"a": FakeMany(text="a")}, hardware=hardware))
    assert done["a"].result["text"] == "a" and "rank 1" in ranks(orders)
    words = (tmp_path / "words").read_text()
    assert "-w first,second " in words
    assert "export DS_ACCELERATOR=cpu; " in words and f"export GLOO_SOCKET_IFNAME={LOOPBACK}; " in words
    world.launcher.close()


@pytest.mark.slow
def test_two_agents_meet_and_stay_until_the_first_rank_is_done(
    orders: Path, played: Played, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each starts one rank, in Slurm's order, and rank 0 works longer than agents wait for one another at the end."""
    played("scontrol", "echo localhost")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[9-10]")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    (orders / "a.json").write_text('{"hold": 1}')
    work, token = prepared()
    worker = start.script("alma_pipeline.execution.worker", str(work), token)
    agents = []
    for place in "10":
        words = [*meeting_options(os.environ | {"SLURM_NODEID": place}), "--nnodes=2", "--nproc-per-node=1", *worker]
        command = [sys.executable, "-m", "helpers.impatient_agent", *words]
        agents.append(subprocess.Popen(command, env=worker_environment(HARDWARE, 1), stderr=subprocess.PIPE, text=True))
    wait_for(lambda: {"rank 1", "step 1"} <= ranks(orders) or any(agent.poll() is not None for agent in agents))
    time.sleep(2)
    assert all(lives(pid) for pid, _ in journal(orders, "a"))
    (orders / "a.go").touch()
    ends = [(agent.wait(60), agent.communicate()[1]) for agent in agents]
    assert [code for code, _ in ends] == [0, 0], ends
    assert (work / "result.json").exists()


@pytest.mark.slow
def test_ranks_of_one_machine_meet_although_its_name_does_not_resolve() -> None:
    """As on laptops, behind VPNs and in containers: without loopback torchrun and gloo wait for a host that nobody knows."""
    hardware = Hardware(name="x", launcher="torchrun", devices=2)
    words = torchrun([*ONE_MACHINE, "--nproc-per-node=2", "-m", "helpers.meeting"])
    nowhere = ["unshare", "--user", "--map-root-user", "--uts", "--net", "sh", "-c"]
    script = 'hostname nohost.invalid && ip link set lo up && exec "$@"'
    done = subprocess.run(
        [*nowhere, script, "sh", *words],
        env=worker_environment(hardware, 2) | {"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.split()) == ["met:0,1", "met:0,1"]
