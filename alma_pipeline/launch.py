"""Starting a node's worker: forked from a warm server, or through torchrun, the DeepSpeed launcher or srun.

Knows processes, not what they do. Every command is a list of words; no shell reads it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from alma_pipeline.errors import PipelineError
from alma_pipeline.schema import Hardware

STOP_SECONDS = 20.0
"""How long a worker may take to end after SIGTERM."""


class Running(Protocol):
    """A started worker."""

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal that ended it); None before."""

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it has ended."""


def environment(hardware: Hardware, processes: int) -> dict[str, str]:
    """What a worker sees: this environment less what would steer tracking, plus device and threads."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    threads = hardware.threads or max(1, len(os.sched_getaffinity(0)) // processes)
    values |= {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": hardware.device, "TOKENIZERS_PARALLELISM": "false"}
    values |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if hardware.device == "cpu":
        values["CUDA_VISIBLE_DEVICES"] = ""
    return values


def command(hardware: Hardware, work: Path) -> list[str]:
    """The command line that starts all ranks of a job on several processes."""
    worker = ["-m", "alma_pipeline.worker", str(work)]
    per_node = str(hardware.devices)
    if hardware.launcher == "deepspeed":
        hosts = ["--hostfile", str(hardware.hostfile), "--num_nodes", str(hardware.nodes), "--num_gpus", per_node]
        return [sys.executable, "-m", "deepspeed.launcher.runner", *hosts, "--module", *worker[1:]]
    if hardware.launcher == "slurm":
        return [*_srun(hardware), sys.executable, "-m", "torch.distributed.run", *_rendezvous(hardware, work), *worker]
    if hardware.nodes > 1:
        return [sys.executable, "-m", "torch.distributed.run", *_rendezvous(hardware, work), *worker]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={per_node}", *worker]


def _srun(hardware: Hardware) -> list[str]:
    """One torchrun agent per node; inside an allocation srun uses it, outside it asks for one."""
    words = ["srun", f"--nodes={hardware.nodes}", f"--ntasks={hardware.nodes}", "--ntasks-per-node=1"]
    words += ["--kill-on-bad-exit=1", f"--time={hardware.time_limit}", "--job-name=alma_pipeline"]
    if hardware.device == "cuda":
        words.append(f"--gpus-per-node={hardware.devices}")
    words += [f"--partition={hardware.partition}"] if hardware.partition else []
    words += [f"--account={hardware.account}"] if hardware.account else []
    return words


def _rendezvous(hardware: Hardware, work: Path) -> list[str]:
    """The first agent to come serves as the meeting point; its address goes through the shared work folder."""
    endpoint = os.environ.get("ALMA_PIPELINE_RENDEZVOUS", "localhost:29400")
    return [
        f"--nnodes={hardware.nodes}",
        f"--nproc-per-node={hardware.devices}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={work.name}",
    ]


@dataclass
class Command:
    """A worker group started by a launcher of its own."""

    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        _stop_group(self.process)


@dataclass
class Forked:
    """A worker forked from the warm server."""

    server: "ForkServer"
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            reply = self.server.reply(wait=False)
            self.code = reply["code"] if reply else None
        return self.code

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass
            until = time.monotonic() + STOP_SECONDS
            while self.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if self.code is not None:
                return


class ForkServer:
    """The parent's end of `alma_pipeline.forkserver`; starts importing as soon as it is made."""

    def __init__(self, hardware: Hardware, log: Path) -> None:
        self.log = log
        self._buffer = b""
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alma_pipeline.forkserver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(hardware, 1),
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._ready = False

    def start(self, work: Path) -> Forked:
        if not self._ready:
            self.reply(wait=True)
            self._ready = True
        stdin: IO[bytes] | None = self.process.stdin
        assert stdin is not None
        stdin.write(json.dumps({"work": str(work)}).encode() + b"\n")
        stdin.flush()
        reply = self.reply(wait=True)
        assert reply is not None
        return Forked(self, reply["pid"])

    def reply(self, wait: bool) -> dict[str, int] | None:
        """The server's next line; None when there is none yet and `wait` is off."""
        stdout = self.process.stdout
        assert stdout is not None
        os.set_blocking(stdout.fileno(), wait)
        while b"\n" not in self._buffer:
            try:
                chunk = os.read(stdout.fileno(), 65536)
            except BlockingIOError:
                return None
            if not chunk:
                raise PipelineError(f"the worker server ended (exit code {self.process.wait()}); its log: {self.log}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: dict[str, int] = json.loads(line)
        return value

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _stop_group(self.process)


class Launcher:
    """Starts workers for one invocation; keeps one warm server for the single-process ones."""

    def __init__(self, hardware: Hardware, log_folder: Path) -> None:
        self.hardware = hardware
        self.server = ForkServer(hardware, log_folder / "server.txt")

    def start(self, work: Path, distributed: bool) -> Running:
        """`distributed`: over all of the hardware's processes, else in one on this machine."""
        if not distributed or self.hardware.launcher == "local":
            return self.server.start(work)
        with open(work / "log.txt", "ab") as log:
            process = subprocess.Popen(
                command(self.hardware, work),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self.hardware, self.hardware.devices),
                start_new_session=True,
            )
        return Command(process)

    def close(self) -> None:
        self.server.close()


def _stop_group(process: "subprocess.Popen[bytes]") -> None:
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
