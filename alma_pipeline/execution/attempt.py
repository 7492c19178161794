"""One node being made: its folder made ready, its worker started and followed. Knows nothing of models."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline.errors import PipelineError, StageFailed, UserError
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.execution.processes import Running
from alma_pipeline.job import Job
from alma_pipeline.plan.plan import Step
from alma_pipeline.redact import redact
from alma_pipeline.store.store import Work

TAIL_LINES = 20


@dataclass(eq=False)
class Attempt:
    """The right to make a step's artifact, and the worker that makes it."""

    step: Step
    work: Work
    job: Job
    lines: Iterator[list[dict[str, Any]]] = field(init=False)
    """At every `next`, the metrics that came since the last; those of an earlier attempt were told then."""
    _running: Running | None = None

    def __post_init__(self) -> None:
        self.lines = tail(self.work.path / "metrics.jsonl")
        next(self.lines)

    def start(self, launcher: Launcher) -> None:
        """Start the worker, unless an earlier one finished and its parent was killed before the commit."""
        if not is_finished(self.work.path):
            self._running = launcher.start(self.work.path, self.work.token, self.step.config.distributed)

    def ended(self) -> bool:
        """Whether the worker has ended. Raises UserError or StageFailed when it ended badly."""
        code = self._running.poll() if self._running else 0
        if code is None:
            return False
        self._running = None
        if code != 0 or not is_finished(self.work.path):
            raise failure(self.step.node.name, self.work.path, code)
        return True

    def stop(self) -> None:
        """End a worker that still runs, wherever its ranks are; what it can go on from stays."""
        if self._running is None:
            return
        try:
            self.work.revoke()  # a launcher may end and leave ranks behind, on nodes that no signal of ours reaches
        finally:
            self._running.stop()


def tail(path: Path) -> Iterator[list[dict[str, Any]]]:
    """At every `next`, the whole lines that were added since the last; an unfinished line waits."""
    position, rest = 0, b""
    while True:
        if path.exists():
            with open(path, "rb") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
        *whole, rest = rest.split(b"\n")
        yield [json.loads(line) for line in whole if line.strip()]


def is_finished(work: Path) -> bool:
    """Whether a worker ended well here: it writes its result last. A parent killed before the commit leaves it so."""
    return (work / "result.json").exists() and (work / "out").is_dir()


def clear(work: Path, all_of_it: bool) -> None:
    """Leftovers of an unfinished attempt; what it can go on from stays, unless the node was asked for again."""
    for path in (work / "result.json", work / "error.json", *work.glob("failed-*.txt")):
        path.unlink(missing_ok=True)
    if all_of_it:  # a tracked run of its own, too: this is another training, not the rest of that one
        (work / "mlflow_run").unlink(missing_ok=True)
    for name in ("out", "resume") if all_of_it else ("out",):
        if (work / name).exists():
            shutil.rmtree(work / name)
    (work / "out").mkdir()


def forget(lines: Path, after: int) -> None:
    """Drop what was measured after a resume point, for it will be measured again, and a last line that was cut off."""
    if not lines.exists():
        return
    kept = lines.with_name(f"{lines.name}.kept")
    with open(lines, "rb") as old, open(kept, "wb") as new:
        new.writelines(line for line in old if line.endswith(b"\n") and 0 < after >= json.loads(line)["step"])
    os.replace(kept, lines)


def failure(name: str, work: Path, code: int) -> PipelineError:
    """What a worker's end is to the user: a UserError where it left one, else StageFailed with the log's tail."""
    error = work / "error.json"
    if error.exists():
        return UserError(f"{name}: {json.loads(error.read_text(encoding='utf-8'))['message']}")
    ends = f"signal {-code}" if code < 0 else f"exit code {code}" if code else "exit code 0, but without a result"
    reason = f"its worker ended with {ends}"
    log = work / "log.txt"
    first = sorted(work.glob("failed-*.txt"), key=lambda path: path.stat().st_mtime)[:1]
    told = next((path for path in (*first, log) if path.exists()), None)
    lines = redact(told.read_text(encoding="utf-8", errors="replace")).splitlines() if told else []
    return StageFailed(name, reason, str(log), "\n".join(lines[-TAIL_LINES:]))
