"""A worker's process group: builds its environment, starts it and stops all of it."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alma_pipeline import start
from alma_pipeline.schema import Hardware

STOP_SECONDS = 45.0
"""Time that a worker gets to exit after SIGTERM. srun takes up to 32 s (Slurm's KillWait is 30 s); killed earlier, it
would leave its allocation behind."""

LAUNCHER_VARS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Launchers set these for their workers; inherited from a launcher around this process, they would confuse ours."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


class WorkerHandle(Protocol):
    """A started worker."""

    def poll(self) -> int | None:
        """Exit code (negative: a signal); None while it runs."""

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL; return when it has ended."""


def worker_environment(hardware: Hardware, processes: int) -> dict[str, str]:
    """A worker's environment: this one without tracking, launcher and unsuitable Python variables, with device and threads.

    `processes`: how many of the node's processes share this machine's cores.
    """
    values = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") and name not in LAUNCHER_VARS}
    values |= {"OMP_NUM_THREADS": str(hardware.threads_each(processes)), **own_variables(hardware)}
    if hardware.nodes == 1:
        # gloo would look for the interface of the machine's own name, which may not resolve.
        values.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    if hardware.device == "cpu":
        values["CUDA_VISIBLE_DEVICES"] = ""
    elif "PYTORCH_CUDA_ALLOC_CONF" not in values:
        # Batches differ in length, which would fragment segments of fixed size.
        values.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    start.set_variables(values)
    return values


def own_variables(hardware: Hardware) -> dict[str, str]:
    """Variables that mean the same for a worker on any machine."""
    return {
        "DS_ACCELERATOR": hardware.device,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


@dataclass
class WorkerProcess:
    """A worker started by a command: a launcher with its ranks, or a single process."""

    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        """Exit code (negative: a signal); None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Stop the process and everything it started."""
        stop_group(self.process)


def start_process(words: list[str], work: Path, variables: dict[str, str]) -> WorkerProcess:
    """Start a command in a process group of its own, in the work folder; its output is appended to the folder's log."""
    with open(work / "log.txt", "ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            words,
            cwd=work,  # the DeepSpeed launcher puts its own working folder on the import path of every rank
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
    return WorkerProcess(process)


def stop_group(process: "subprocess.Popen[bytes]") -> None:
    """Send a process group SIGTERM, then SIGKILL if it does not exit within `STOP_SECONDS`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
