"""Client of the fork server: starts it, requests workers from it and follows them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from alma_pipeline import start
from alma_pipeline.errors import PipelineError
from alma_pipeline.execution import out_of_memory
from alma_pipeline.execution.processes import STOP_SECONDS, stop_group, worker_environment
from alma_pipeline.schema import Hardware
from alma_pipeline.units import size

PRELOADED = ("torch", "transformers", "peft", "deepspeed", "safetensors.torch", "alma_pipeline.execution.worker")
"""Modules that the server imports once for all workers."""


@dataclass
class ForkedWorker:
    """A worker forked from the server."""

    server: "ForkServer"
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """Exit code (negative: a signal); None while it runs."""
        if self.code is None:
            self.code = self.server.code(self.pid)
        return self.code

    def stop(self) -> None:
        """Send the worker's process group SIGTERM, then SIGKILL if it does not exit in time."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.server.process.poll() is not None:
                return  # the server killed its workers, or they see that their owner is gone
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            until = time.monotonic() + STOP_SECONDS
            while self.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if self.code is not None:
                return


class ForkServer:
    """A running `alma_pipeline.execution.fork_server`, which starts importing as soon as this object exists."""

    def __init__(self, hardware: Hardware, log: Path) -> None:
        self.log = log
        self._buffer = b""
        self._codes: dict[int, int] = {}
        self._killed_before = out_of_memory.kill_count()
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                start.command("alma_pipeline.execution.fork_server", *PRELOADED),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=worker_environment(hardware, 1),
                start_new_session=True,  # so that Ctrl-C reaches only the parent
            )
        self._ready = False

    def start(self, work: Path, token: str) -> ForkedWorker:
        """Fork a worker for this work folder. Raises PipelineError if the server has ended."""
        if not self._ready:  # its first line: the imports are done
            self.reply(wait=True)
            self._ready = True
        stdin: IO[bytes] | None = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps({"work": str(work), "token": token}).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as error:  # the command line would take it for its own closed output
            raise self._ended() from error
        # Exit codes of other workers may come before the answer.
        while True:
            reply = self.reply(wait=True)
            assert reply is not None
            if "code" not in reply:
                return ForkedWorker(self, reply["pid"])
            self._codes[reply["pid"]] = reply["code"]

    def code(self, pid: int) -> int | None:
        """The exit code of a worker; None while it runs."""
        while pid not in self._codes and (reply := self.reply(wait=False)):
            self._codes[reply["pid"]] = reply["code"]
        return self._codes.pop(pid, None)

    def reply(self, wait: bool) -> dict[str, int] | None:
        """The server's next line; None if there is none yet and `wait` is off. Raises PipelineError if the server has ended."""
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
        code = self.process.wait()
        if code == -signal.SIGKILL and out_of_memory.kill_count() > self._killed_before:
            text = (
                f"memory ran out, and the kernel killed the fork server; {size(out_of_memory.available_bytes())} of memory here"
            )
            return PipelineError(f"{text}; the same command resumes from the last resume points")
        return PipelineError(f"the fork server ended (exit code {code}); see its log: {self.log}")

    def close(self) -> None:
        """Stop the server and the workers that still run."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if not self._ready:  # it would finish its imports before it noticed
            stop_group(self.process)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            stop_group(self.process)
        self.process.stdout.close()
