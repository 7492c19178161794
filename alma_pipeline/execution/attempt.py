"""One attempt to run a node: prepares its work folder, starts its worker and follows it. Independent of models."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline import files
from alma_pipeline.execution import out_of_memory
from alma_pipeline.execution.failure import worker_error
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.execution.processes import WorkerHandle
from alma_pipeline.execution.restart import Position, Restart, wanted
from alma_pipeline.job import NOTICE, Job
from alma_pipeline.plan.plan import Step
from alma_pipeline.store.store import WorkFolder


@dataclass(eq=False)
class Attempt:
    """A step's work folder, which this process holds, and the worker that runs in it."""

    step: Step
    work: WorkFolder
    job: Job
    new_metrics: Iterator[list[dict[str, Any]]] = field(init=False)
    """Each `next` gives the metrics since the last one; those of earlier attempts are skipped."""
    started_at: Position = (0, 0)
    """How far the node was when the worker started."""
    restart: Restart | None = None
    """Set once the worker has ended for another one to continue."""
    _running: WorkerHandle | None = None
    _log_bytes: int = 0
    """Of earlier workers."""
    _killed_before: int = 0
    """The kernel's count of processes killed for memory, when the worker started."""

    def __post_init__(self) -> None:
        self.new_metrics = follow_metrics(self.work.path / "metrics.jsonl")
        next(self.new_metrics)

    def start(self, launcher: Launcher) -> None:
        """Start the worker, unless an earlier one already finished and only the commit is missing."""
        if not has_result(self.work.path):
            self._killed_before = out_of_memory.kill_count()
            log = self.work.path / "log.txt"
            self._log_bytes = log.stat().st_size if log.exists() else 0
            self._running = launcher.start(self.work.path, self.work.token, self.step.config.distributed)

    def has_ended(self) -> bool:
        """Whether the worker has ended, with `restart` for another one. Raises UserError or StageFailed if it failed."""
        code = self._running.poll() if self._running else 0
        if code is None:
            return False
        self._running = None
        # Ranks on other machines have left their ends, and resume points.
        files.look_again(self.work.path, self.work.path / "resume")
        if code != 0 or not has_result(self.work.path):
            self.restart = wanted(self.job, self._log())
            if self.restart:
                return True
            raise worker_error(self.job, code, self._killed_before, self.step.estimate)
        return True

    def give_notice(self) -> bool:
        """Ask the worker to write a resume point and end; False if it does not run, or its kind cannot."""
        if self._running is None or not self.step.config.saves_on_notice:
            return False
        self.job.notice.touch()
        return True

    def _log(self) -> str:
        """What the worker and its launcher wrote."""
        log = self.work.path / "log.txt"
        return log.read_bytes()[self._log_bytes :].decode("utf-8", errors="replace") if log.exists() else ""

    def stop(self) -> None:
        """Stop the worker and all of its ranks if it still runs; resume points are kept."""
        if self._running is None:
            return
        try:
            self.work.revoke()  # a launcher may exit and leave ranks on machines that our signals do not reach
        finally:
            self._running.stop()


def follow_metrics(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Each `next` gives the JSON lines appended since the last one; an incomplete line is kept for the next."""
    position, rest = 0, b""
    while True:  # the worker creates the file with its first line
        if path.exists():
            with open(path, "rb") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
        *whole, rest = rest.split(b"\n")
        yield [json.loads(line) for line in whole if line.strip()]


def has_result(work: Path) -> bool:
    """Whether a worker finished here: it writes its result last, and the commit removes the folder."""
    return (work / "result.json").exists() and (work / "out").is_dir()


def clear_leftovers(work: Path, fresh: bool) -> None:
    """Delete the leftovers of an unfinished attempt; `fresh` (a forced node): its resume points and MLflow run id too."""
    ends = (work / name for name in ("result.json", "error.json", NOTICE))
    for path in (*ends, *work.glob("failed-*.txt"), *work.glob("again-*.json")):
        path.unlink(missing_ok=True)
    if fresh:  # a new training, not the rest of the old one, so it gets a new MLflow run
        for name in ("mlflow_run", "lowered.json"):
            (work / name).unlink(missing_ok=True)
    for name in ("out", "resume") if fresh else ("out",):
        if (work / name).exists():
            shutil.rmtree(work / name)
    (work / "out").mkdir()


def truncate_metrics(metrics: Path, last_step: int) -> None:
    """Drop the lines after `last_step`, the resume point: the worker measures those steps again. Drops a truncated line too."""
    if not metrics.exists():
        return
    kept = metrics.with_name(f"{metrics.name}.kept")
    with open(metrics, "rb") as old, open(kept, "wb") as new:
        new.writelines(line for line in old if line.endswith(b"\n") and 0 < last_step >= json.loads(line)["step"])
    os.replace(kept, metrics)
