"""Starts a node's worker: forked from the fork server, or through torchrun, the DeepSpeed launcher or srun.

Independent of what the worker does. Every command is a list of words; no shell reads it.
"""

import os
import shutil
import sys
from pathlib import Path

from alma_pipeline import start
from alma_pipeline.execution.fork_client import ForkServer
from alma_pipeline.execution.processes import WorkerHandle, WorkerProcess, start_process, worker_environment
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.time_limit import notice_seconds

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
        agent = start.command("alma_pipeline.execution.slurm_agent")
        return [*_srun(hardware), *agent, *_size_options(hardware, work), *worker]
    if hardware.nodes > 1:
        return torchrun([*_size_options(hardware, work), *rendezvous_options(str(hardware.rendezvous)), *worker])
    return torchrun([*ONE_MACHINE, f"--nproc-per-node={hardware.devices}", *worker])


def torchrun(words: list[str]) -> list[str]:
    """The torchrun command under the running Python."""
    return [sys.executable, "-P", "-m", "torch.distributed.run", *words]


def rendezvous_options(endpoint: str) -> list[str]:
    """torchrun options: the agent at `endpoint`, HOST:PORT, hosts the rendezvous."""
    return ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]


def _size_options(hardware: Hardware, work: Path) -> list[str]:
    """torchrun options: number of machines, processes per machine, and an id shared by the agents of one job."""
    return [f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}", f"--rdzv-id={work.name}"]


def _srun(hardware: Hardware) -> list[str]:
    """srun with one agent per machine; it uses the current allocation, or requests one."""
    words = ["srun", f"--nodes={hardware.nodes}", f"--ntasks={hardware.nodes}", "--ntasks-per-node=1"]
    words += ["--kill-on-bad-exit=1", f"--time={hardware.time_limit}", "--job-name=alma_pipeline"]
    words += [f"--signal=USR1@{notice_seconds(hardware.time_limit)}"]  # to the agents
    words += [f"--gpus-per-node={hardware.devices}"] if hardware.device == "cuda" else []
    # Slurm gives a task one core by default; all processes of an agent share its task's cores.
    words += [f"--cpus-per-task={hardware.threads * hardware.devices}"] if hardware.threads else []
    words += [f"--partition={hardware.partition}"] if hardware.partition else []
    words += [f"--account={hardware.account}"] if hardware.account else []
    return words


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
    # DeepSpeed reads this file of variables in the folder where it is started, which is the work folder.
    variables = Path(".deepspeed_env")
    if hardware.launcher == "deepspeed" and variables.is_file():
        shutil.copy(variables, work)
    return start_process(command(hardware, work, token), work, worker_environment(hardware, hardware.devices))


def start_without_server(hardware: Hardware, work: Path, token: str, distributed: bool) -> WorkerProcess:
    """Start a worker that is not forked: faster for a single job, which needs few of the modules that a fork server imports."""
    if distributed and hardware.launcher != "local":
        return _start_ranks(hardware, work, token)
    words = start.command("alma_pipeline.execution.worker", str(work), token)
    return start_process(words, work, worker_environment(hardware, 1))
