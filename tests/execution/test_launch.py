"""How workers are started: command lines and environment."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.execution import fork_client, processes
from alma_pipeline.execution.launch import Launcher, command, start_without_server
from alma_pipeline.execution.processes import worker_environment
from alma_pipeline.execution.srun import srun
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.fields import problems
from helpers import ROOT
from helpers.fake_stages.recipes import chain
from helpers.fake_stages.world import World, fake_world
from helpers.processes import wait_for

START = str(ROOT / "alma_pipeline" / "start.py")
WORKER = [START, "alma_pipeline.execution.worker", "/s/work/mono-3f", "T"]
LOOPBACK = ["--standalone", "--local-addr=127.0.0.1"]
TORCHRUN = [sys.executable, "-P", "-m", "torch.distributed.run"]
DEEPSPEED = [sys.executable, "-P", "-m", "deepspeed.launcher.runner"]
AGENT = [sys.executable, "-P", START, "alma_pipeline.execution.slurm_agent", "/s/work/mono-3f", "2", "4"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"launcher": "torchrun", "devices": 8},
            [*TORCHRUN, *LOOPBACK, "--nproc-per-node=8", *WORKER],
        ),
        (
            {"launcher": "deepspeed", "devices": 4, "nodes": 2, "hostfile": "/etc/hosts of mine"},
            [
                *DEEPSPEED,
                *("--hostfile", "/etc/hosts of mine", "--num_nodes", "2", "--num_gpus", "4", "--no_local_rank"),
                *WORKER,
            ],
        ),
        (
            {"launcher": "slurm", "devices": 4, "nodes": 2, "srun": ["--qos=long"]},
            [*srun(Hardware(name="x", launcher="slurm", devices=4, nodes=2, srun=["--qos=long"])), *AGENT, *WORKER],
        ),
    ],
)
def test_commands(settings: dict[str, Any], expected: list[str]) -> None:
    """B13, B17: one plain argument list; no launcher's own flag reaches the worker, and nothing reaches Hydra."""
    assert command(Hardware(name="x", **settings), Path("/s/work/mono-3f"), "T") == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"launcher": "torchrun", "nodes": 2}, "nodes=2 needs launcher=slurm, or launcher=deepspeed with a hostfile"),
        ({"launcher": "deepspeed", "nodes": 2}, "launcher=deepspeed needs a hostfile"),
        ({"launcher": "local", "devices": 2}, "launcher=local runs one process, found devices x nodes = 2"),
        ({"launcher": "torchrun", "srun": ["--qos=long"]}, "srun=['--qos=long'] needs launcher=slurm, found launcher=torchrun"),
        ({"launcher": "slurm", "srun": ["-p", "gpu"]}, "srun=-p: expected an option in full with its value in the same word"),
        ({"launcher": "slurm", "srun": ["--qos long"]}, "srun=--qos long: expected an option in full"),
        ({"launcher": "slurm", "srun": ["--partition=gpu"]}, "srun=--partition=gpu: use hardware.partition for it"),
        ({"launcher": "slurm", "srun": ["--ntasks-per-node=8"]}, "srun=--ntasks-per-node=8: use hardware.nodes for it"),
        ({"launcher": "slurm", "nodes": 2, "srun": ["--qos=long", "--constraint=a|b", "--requeue"]}, None),
        ({"launcher": "deepspeed", "nodes": 2, "hostfile": "hosts"}, None),
        ({"launcher": "torchrun", "devices": 2}, None),
    ],
)
def test_what_a_launcher_needs_is_said_before_it_starts(settings: dict[str, Any], said: str | None) -> None:
    found = list(problems(Hardware(name="x", comet_batch=8, **settings), "hardware"))
    assert not found if said is None else any(f"hardware: {said}" in text for text in found)


def test_a_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """B35: nothing that steers tracking; and no place in somebody else's group of processes."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("HF_TOKEN", "needed-for-gated-models")
    values = worker_environment(Hardware(name="x", threads=3), 1)
    assert [name for name in values if name.startswith("MLFLOW_") or name in processes.LAUNCHER_VARS] == []
    assert values["HF_TOKEN"] == "needed-for-gated-models"
    assert (values["OMP_NUM_THREADS"], values["CUDA_VISIBLE_DEVICES"], values["DS_ACCELERATOR"]) == ("3", "", "cpu")


@pytest.mark.parametrize(("processes", "threads"), [(1, 6), (2, 3), (4, 1), (99, 1)])
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, processes: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert worker_environment(Hardware(name="x"), processes)["OMP_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize(("threads", "omp"), [(None, "none"), (3, "3")])
def test_cores_of_other_machines_are_counted_there(
    played: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, threads: int | None, omp: str
) -> None:
    """The command may run on a login node with another number of cores, or in a job of tasks with few cores each."""
    played("srun", "echo ${OMP_NUM_THREADS-none} ${SLURM_CPUS_PER_TASK-none} ${SLURM_JOB_ID-none}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    hardware = Hardware(name="x", launcher="slurm", nodes=2, threads=threads)
    process = start_without_server(hardware, tmp_path, "T", distributed=True)
    wait_for(lambda: process.poll() is not None)
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == [f"{omp} none 7"]


def test_devices_stay_visible_to_a_gpu_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert worker_environment(Hardware(name="x", device="cuda"), 2)["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize(("device", "forked"), [("cpu", True), ("cuda", False)])
def test_no_worker_is_forked_where_a_library_may_have_initialised_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, forked: bool
) -> None:
    """bitsandbytes asks for the device's capability on import, which peft does for it; a fork could not use the device."""
    (tmp_path / "bitsandbytes.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'initialised')!r}).touch()\n")
    with fake_world(monkeypatch, tmp_path) as orders:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(fork_client, "PRELOADED", (*fork_client.PRELOADED, "bitsandbytes"))
        hardware = Hardware(name="x", device=device)
        world = World(tmp_path, orders, Launcher(hardware, tmp_path))
        assert set(world.run(chain(hardware=hardware))) == {"a", "b", "c"}
        world.launcher.close()
    assert (tmp_path / "initialised").exists() is forked
