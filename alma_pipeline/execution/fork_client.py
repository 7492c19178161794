"""The parent's end of the fork server: starts it, asks it for workers, follows them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from alma_pipeline.errors import PipelineError
from alma_pipeline.execution.processes import STOP_SECONDS, environment, stop_group
from alma_pipeline.schema import Hardware

PRELOADED = ("torch", "transformers", "peft", "deepspeed", "safetensors.torch", "alma_pipeline.execution.worker")
"""What the server imports once, so that no worker has to."""


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
            stop_group(self.process)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            stop_group(self.process)
        self.process.stdout.close()
