"""A worker's process group: its environment, starting it, and ending all of it."""

import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alma_pipeline.schema import Hardware

STOP_SECONDS = 45.0
"""How long a worker may take to end after SIGTERM. srun takes up to 32 (Slurm's KillWait is 30), and killed before that
it would leave its allocation behind."""


PLACE = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Set by launchers for their workers; left over from a launcher around this process, they would misplace ours."""


class Running(Protocol):
    """A started worker."""

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal that ended it); None before."""

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it has ended."""


def environment(hardware: Hardware, processes: int) -> dict[str, str]:
    """What a worker sees: this environment less what would steer tracking or its place, plus device and threads."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") and name not in PLACE}
    values |= {
        "OMP_NUM_THREADS": str(hardware.threads_each(processes)),
        "DS_ACCELERATOR": hardware.device,
        "TOKENIZERS_PARALLELISM": "false",
    }
    values |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if hardware.device == "cpu":
        values["CUDA_VISIBLE_DEVICES"] = ""
    return values


@dataclass
class Command:
    """A worker group started by a launcher of its own."""

    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """End the process and all that it started."""
        stop_group(self.process)


def started(words: list[str], work: Path, variables: dict[str, str]) -> Command:
    with open(work / "log.txt", "ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
    return Command(process)


def stop_group(process: "subprocess.Popen[bytes]") -> None:
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
