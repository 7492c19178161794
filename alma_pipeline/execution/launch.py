"""Starts a node's worker: forked from the fork server, or through torchrun, the DeepSpeed launcher or srun.

Independent of what the worker does. Every command is a list of words; no shell reads it.
"""

import os
import sys
from pathlib import Path

from alma_pipeline import start
from alma_pipeline.execution.fork_client import ForkServer
from alma_pipeline.execution.processes import (
    WorkerHandle,
    WorkerProcess,
    own_variables,
    start_process,
    worker_environment,
)
from alma_pipeline.execution.srun import OTHER_TASKS, srun
from alma_pipeline.schema import Hardware

ONE_MACHINE = ("--standalone", "--local-addr=127.0.0.1")
"""torchrun options: ranks of one machine meet over loopback, because its own name may not resolve (laptops, VPNs, containers)."""


def command(hardware: Hardware, work: Path, token: str) -> list[str]:
    """The command that starts all ranks of a job that runs on several processes."""
    worker = start.script("alma_pipeline.execution.worker", str(work), token)
    if hardware.launcher == "deepspeed":
        hosts = [
            "--hostfile",
            os.path.abspath(str(hardware.hostfile)),
            "--num_nodes",
            str(hardware.nodes),
            "--num_gpus",
            str(hardware.devices),
        ]
        # Without --no_local_rank it inserts its own argument before ours (B17).
        return [sys.executable, "-P", "-m", "deepspeed.launcher.runner", *hosts, "--no_local_rank", *worker]
    if hardware.launcher == "slurm":
        agent = start.command("alma_pipeline.execution.slurm_agent", str(work), str(hardware.nodes), str(hardware.devices))
        return [*srun(hardware), *agent, *worker]
    return torchrun([*ONE_MACHINE, f"--nproc-per-node={hardware.devices}", *worker])


def torchrun(words: list[str]) -> list[str]:
    """The torchrun command under the running Python."""
    return [sys.executable, "-P", "-m", "torch.distributed.run", *words]


class Launcher:
    """Starts the workers of one invocation.

    On a CPU, single-process workers are forked from one fork server, several at a time. On a GPU each is a process of its own:
    a library may initialise CUDA on import, as bitsandbytes does, and no fork of such a process can use the device.
    """

    def __init__(self, hardware: Hardware, log_folder: Path) -> None:
        self.hardware = hardware
        self.log = log_folder / "server.txt"
        self.server = ForkServer(hardware, self.log) if hardware.device == "cpu" else None

    def start(self, work: Path, token: str, distributed: bool) -> WorkerHandle:
        """Start a worker. `distributed`: on all processes of the hardware; else in one process on this machine."""
        if self.server and (not distributed or self.hardware.launcher == "local"):
            if self.server.process.poll() is not None:  # a crashed server must not fail the jobs after it (B24)
                self.server.close()
                self.server = ForkServer(self.hardware, self.log)
            return self.server.start(work, token)
        return start_without_server(self.hardware, work, token, distributed)

    def close(self) -> None:
        """Stop the fork server and the workers forked from it."""
        if self.server:
            self.server.close()


def _start_ranks(hardware: Hardware, work: Path, token: str) -> WorkerProcess:
    """Start all ranks of a job through its launcher."""
    if hardware.launcher == "deepspeed":
        _write_variables(hardware, work)
    environment = worker_environment(hardware, hardware.devices)
    if hardware.launcher == "slurm":
        # Each machine counts its own cores.
        unsuitable = OTHER_TASKS if hardware.threads else (*OTHER_TASKS, "OMP_NUM_THREADS")
        environment = {name: value for name, value in environment.items() if name not in unsuitable}
    return start_process(command(hardware, work, token), work, environment)


def _write_variables(hardware: Hardware, work: Path) -> None:
    """Write what DeepSpeed exports to the ranks of other machines besides NCCL's variables: ours, gloo's, the user's file.

    DeepSpeed reads `.deepspeed_env` in the folder where it is started, which is the work folder; the user's is where we run.
    """
    gloo = {name: value for name, value in os.environ.items() if name.startswith("GLOO_")}
    lines = [f"{name}={value}\n" for name, value in (own_variables(hardware) | gloo).items()]
    theirs = Path(".deepspeed_env")
    if theirs.is_file():
        lines.append(theirs.read_text(encoding="utf-8"))
    (work / ".deepspeed_env").write_text("".join(lines), encoding="utf-8")


def start_without_server(hardware: Hardware, work: Path, token: str, distributed: bool) -> WorkerProcess:
    """Start a worker that is not forked: faster for a single job, which needs few of the modules that a fork server imports."""
    if distributed and hardware.launcher != "local":
        return _start_ranks(hardware, work, token)
    words = start.command("alma_pipeline.execution.worker", str(work), token)
    return start_process(words, work, worker_environment(hardware, 1))
