"""Starting a node's worker: forked from a warm server, or through torchrun, the DeepSpeed launcher or srun.

Knows processes, not what they do. Every command is a list of words; no shell reads it.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from alma_pipeline.errors import PipelineError
from alma_pipeline.schema import Hardware

PRELOADED = ("torch", "transformers", "peft", "deepspeed", "safetensors.torch", "alma_pipeline.execution.worker")
"""What the server imports once, so that no worker has to."""
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


def command(hardware: Hardware, work: Path, token: str) -> list[str]:
    """The command line that starts all ranks of a job on several processes."""
    worker = ["-m", "alma_pipeline.execution.worker", str(work), token]
    if hardware.launcher == "deepspeed":
        hosts = ["--hostfile", str(hardware.hostfile), "--num_nodes", str(hardware.nodes), "--num_gpus", str(hardware.devices)]
        # Without --no_local_rank it puts an argument of its own before ours (B17).
        return [sys.executable, "-m", "deepspeed.launcher.runner", *hosts, "--no_local_rank", "--module", *worker[1:]]
    if hardware.launcher == "slurm":
        return [*_srun(hardware), sys.executable, "-m", "alma_pipeline.execution.slurm_agent", *_shape(hardware, work), *worker]
    if hardware.nodes > 1:
        return torchrun([*_shape(hardware, work), *rendezvous(str(hardware.rendezvous)), *worker])
    return torchrun(["--standalone", f"--nproc-per-node={hardware.devices}", *worker])


def torchrun(words: list[str]) -> list[str]:
    """The command line of torchrun under this very Python."""
    return [sys.executable, "-m", "torch.distributed.run", *words]


def rendezvous(endpoint: str) -> list[str]:
    """The agent on the endpoint's host, HOST:PORT, serves as the meeting point of all."""
    return ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]


def _shape(hardware: Hardware, work: Path) -> list[str]:
    return [f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}", f"--rdzv-id={work.name}"]


def _srun(hardware: Hardware) -> list[str]:
    """One agent per node; inside an allocation srun uses it, outside it asks for one."""
    words = ["srun", f"--nodes={hardware.nodes}", f"--ntasks={hardware.nodes}", "--ntasks-per-node=1"]
    words += ["--kill-on-bad-exit=1", f"--time={hardware.time_limit}", "--job-name=alma_pipeline"]
    words += [f"--gpus-per-node={hardware.devices}"] if hardware.device == "cuda" else []
    # Slurm gives a task one core unless told; the agent's processes share its task's.
    words += [f"--cpus-per-task={hardware.threads * hardware.devices}"] if hardware.threads else []
    words += [f"--partition={hardware.partition}"] if hardware.partition else []
    words += [f"--account={hardware.account}"] if hardware.account else []
    return words


@dataclass
class Command:
    """A worker group started by a launcher of its own."""

    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """End the process and all that it started."""
        _stop_group(self.process)


@dataclass
class Forked:
    """A worker forked from the warm server."""

    server: "ForkServer"
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.code is None:
            self.code = self.server.code(self.pid)
        return self.code

    def stop(self) -> None:
        """Ask the worker's group to end, then make it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.server.process.poll() is not None:
                return  # it took the worker with it, or the worker sees that its owner is gone
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            until = time.monotonic() + STOP_SECONDS
            while self.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if self.code is not None:
                return


class ForkServer:
    """The parent's end of `alma_pipeline.execution.fork_server`; starts importing as soon as it is made."""

    def __init__(self, hardware: Hardware, log: Path) -> None:
        self.log = log
        self._buffer = b""
        self._codes: dict[int, int] = {}
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alma_pipeline.execution.fork_server", *PRELOADED],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(hardware, 1),
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._ready = False

    def start(self, work: Path, token: str) -> Forked:
        """Fork a worker for this folder. Raises PipelineError where the server has ended."""
        if not self._ready:
            self.reply(wait=True)
            self._ready = True
        stdin: IO[bytes] | None = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps({"work": str(work), "token": token}).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as error:  # to the command line this would mean that nobody reads its output
            raise self._ended() from error
        while True:
            reply = self.reply(wait=True)
            assert reply is not None
            if "code" not in reply:
                return Forked(self, reply["pid"])
            self._codes[reply["pid"]] = reply["code"]

    def code(self, pid: int) -> int | None:
        """The exit code of a worker; None while it runs."""
        while pid not in self._codes and (reply := self.reply(wait=False)):
            self._codes[reply["pid"]] = reply["code"]
        return self._codes.pop(pid, None)

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
                raise self._ended()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: dict[str, int] = json.loads(line)
        return value

    def _ended(self) -> PipelineError:
        return PipelineError(f"the worker server ended (exit code {self.process.wait()}); its log: {self.log}")

    def close(self) -> None:
        """End it, and the workers that are still running."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if not self._ready:  # it would import to the end before it looked
            _stop_group(self.process)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _stop_group(self.process)
        self.process.stdout.close()


class Launcher:
    """Starts workers for one invocation; keeps one warm server for the single-process ones, several at a time."""

    def __init__(self, hardware: Hardware, log_folder: Path) -> None:
        self.hardware = hardware
        self.log = log_folder / "server.txt"
        self.server = ForkServer(hardware, self.log)

    def start(self, work: Path, token: str, distributed: bool) -> Running:
        """`distributed`: over all of the hardware's processes, else in one on this machine."""
        if not distributed or self.hardware.launcher == "local":
            if self.server.process.poll() is not None:  # one lost server must not spoil the jobs after it (B24)
                self.server.close()
                self.server = ForkServer(self.hardware, self.log)
            return self.server.start(work, token)
        return _started(command(self.hardware, work, token), work, environment(self.hardware, self.hardware.devices))

    def close(self) -> None:
        """End the fork server."""
        self.server.close()


def start_alone(hardware: Hardware, work: Path, token: str, distributed: bool) -> Command:
    """A worker without a server: for a job that no other follows, which saves it most of what a server imports."""
    if distributed and hardware.launcher != "local":
        return _started(command(hardware, work, token), work, environment(hardware, hardware.devices))
    return _started([sys.executable, "-m", "alma_pipeline.execution.worker", str(work), token], work, environment(hardware, 1))


def _started(words: list[str], work: Path, variables: dict[str, str]) -> Command:
    with open(work / "log.txt", "ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
    return Command(process)


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
