"""How workers are started: command lines and environment."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.execution import fork_client, processes
from alma_pipeline.execution.launch import Launcher, command
from alma_pipeline.execution.processes import worker_environment
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.fields import problems
from helpers import ROOT
from helpers.fake_stages.recipes import chain
from helpers.fake_stages.world import World, fake_world

START = str(ROOT / "alma_pipeline" / "start.py")
WORKER = [START, "alma_pipeline.execution.worker", "/s/work/mono-3f", "T"]
LOOPBACK = ["--standalone", "--local-addr=127.0.0.1"]
TORCHRUN = [sys.executable, "-P", "-m", "torch.distributed.run"]
DEEPSPEED = [sys.executable, "-P", "-m", "deepspeed.launcher.runner"]
SRUN = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
SIZE = ["--nnodes=2", "--nproc-per-node=4", "--rdzv-id=mono-3f"]
AGENT = [sys.executable, "-P", START, "alma_pipeline.execution.slurm_agent", *SIZE]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"launcher": "torchrun", "devices": 8},
            [*TORCHRUN, *LOOPBACK, "--nproc-per-node=8", *WORKER],
        ),
        (
            {"launcher": "torchrun", "devices": 4, "nodes": 2, "rendezvous": "first:29400"},
            [*TORCHRUN, *SIZE, "--rdzv-backend=c10d", "--rdzv-endpoint=first:29400", *WORKER],
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
            {"launcher": "slurm", "devices": 4, "nodes": 2},
            [*SRUN, "--time=24:00:00", "--job-name=alma_pipeline", "--signal=USR1@300", *AGENT, *WORKER],
        ),
        (
            {
                **{"launcher": "slurm", "devices": 4, "nodes": 2, "device": "cuda", "threads": 6},
                **{"partition": "gpu", "account": "mt", "time_limit": "2:00:00"},
            },
            [
                *SRUN,
                *("--time=2:00:00", "--job-name=alma_pipeline", "--signal=USR1@300", "--gpus-per-node=4", "--cpus-per-task=24"),
                *("--partition=gpu", "--account=mt"),
                *AGENT,
                *WORKER,
            ],
        ),
    ],
)
def test_commands(settings: dict[str, Any], expected: list[str]) -> None:
    """B13, B17: one plain argument list; no launcher's own flag reaches the worker, and nothing reaches Hydra."""
    assert command(Hardware(name="x", **settings), Path("/s/work/mono-3f"), "T") == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"launcher": "torchrun", "nodes": 2}, "launcher=torchrun with nodes=2 needs rendezvous=HOST:PORT"),
        ({"launcher": "deepspeed", "nodes": 2}, "launcher=deepspeed needs a hostfile"),
        ({"launcher": "local", "devices": 2}, "launcher=local runs one process, found devices x nodes = 2"),
        ({"launcher": "torchrun", "nodes": 2, "rendezvous": "first:29400"}, None),
        ({"launcher": "slurm", "nodes": 2}, None),
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
