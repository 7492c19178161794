"""A process with a Python environment of its own, which reads and writes JSON lines; and the devices that such processes share.

What the lines mean is known to the modules that start it. Its log is copied to this process's own.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alma_pipeline.errors import PipelineError
from alma_pipeline.schema import Hardware

TAIL_LINES = 20
"""Log lines that an error shows, as many as `execution.failure` shows of a worker's."""
READ_SECONDS = 2.0
"""How long an error waits for the last lines of the log of a process that has ended."""


class JsonProcess:
    """A running process. `task` completes the sentence "X ended with exit code 1 while ..."."""

    def __init__(self, words: Sequence[str], name: str, task: str, environment: Mapping[str, str]) -> None:
        """Start `words` with these environment variables."""
        self.name, self.task = name, task
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reader = threading.Thread(target=self._copy_log, daemon=True)
        self._reader.start()

    def send(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Send a line for each row. A process that has ended is noticed when its answer is read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            for row in rows:
                self.process.stdin.write(json.dumps(row).encode() + b"\n")
            self.process.stdin.flush()

    def end_input(self) -> None:
        """Close the process's input: it has got everything."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # lines that it has not read have no reader any more
            self.process.stdin.close()

    def receive(self) -> dict[str, Any]:
        """The next line. Raises PipelineError with the end of its log if the process has ended."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text.endswith(b"\n"):
            code = self.process.wait()
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise PipelineError(f"{self.name} ended with {ended} while {self.task}; the end of its log:{self.log_tail()}")
        line: dict[str, Any] = json.loads(text)
        return line

    def log_tail(self) -> str:
        """The last lines of the log of a process that has ended or is about to, each after a line break."""
        self._reader.join(READ_SECONDS)
        return "".join(f"\n{line}" for line in [*self._tail]) or " (empty)"

    def close(self, patience: float = 0.0) -> None:
        """End the process and the process group that it leads, if any, at the latest after `patience` seconds."""
        self.end_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        # A process that starts others leads a group of its own; a group keeps its number until all of it has ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _copy_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self._tail.append(line.decode(errors="replace").rstrip())
                with contextlib.suppress(OSError):  # a full disk
                    os.write(2, line)


def device_groups(hardware: Hardware, size: int = 1) -> list[dict[str, str]]:
    """Environment variables for processes of `size` devices each, one entry per process: this machine's devices, dealt out.

    On a CPU there is one process, which needs no variable.
    """
    if hardware.device == "cpu":
        return [{}]
    # A launcher or a scheduler may have given this process some of the machine's devices, by number or by name.
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (given.split(",") if given else [str(number) for number in range(hardware.devices)])[: hardware.devices]
    groups = [names[start : start + size] for start in range(0, len(names) - size + 1, size)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
