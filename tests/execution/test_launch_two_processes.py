"""Launchers that are not ours, with two processes on this machine."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.execution.launch import ONE_MACHINE, Launcher, command, torchrun
from alma_pipeline.execution.processes import worker_environment
from alma_pipeline.schema import Hardware
from helpers import PYTHONPATH
from helpers.fake_stages.recipes import recipe
from helpers.fake_stages.world import World

Prepared = Callable[..., tuple[Path, str]]
Played = Callable[[str, str], None]


def ranks(orders: Path) -> set[str]:
    return {word for _, word in (line.split(" ", 1) for line in (orders / "a.journal").read_text().splitlines())}


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
def test_two_agents_meet_through_torchrun(orders: Path, tmp_path: Path, prepared: Prepared) -> None:
    """Two nodes on one machine: each agent starts one rank, and the ranks know each other's number."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    hardware = Hardware(name="x", launcher="torchrun", nodes=2, rendezvous=endpoint)
    work, token = prepared()
    words = command(hardware, work, token)
    agents = [
        subprocess.Popen(words, env=worker_environment(hardware, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in "12"
    ]
    assert [agent.wait(60) for agent in agents] == [0, 0]
    assert "rank 1" in ranks(orders) and (work / "result.json").exists()


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
