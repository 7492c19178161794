"""Carries out a plan: take the lock, start the worker, follow it, commit. Knows nothing of models."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from alma_pipeline.errors import PipelineError, StageFailed, UserError
from alma_pipeline.job import Input, Job, read_job
from alma_pipeline.launch import Launcher, Running
from alma_pipeline.plan import Plan, Step
from alma_pipeline.redact import redact
from alma_pipeline.schema import Hardware
from alma_pipeline.store import Record, Store, Work

POLL_SECONDS = 0.05
TAIL_LINES = 20


class Watcher(Protocol):
    """Whoever wants to know how the plan goes: the screen, and tracking."""

    def started(self, step: Step, work: Path) -> None: ...

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None: ...

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        """`status`: FINISHED, FAILED or KILLED. `work` is the artifact's folder once finished."""

    def waiting(self, text: str) -> None: ...


@dataclass
class Runner:
    """One invocation's execution of a plan."""

    store: Store
    hardware: Hardware
    launcher: Launcher
    watchers: list[Watcher]
    provenance: dict[str, Any]
    done: dict[str, Record] = field(default_factory=dict)
    """Node name to artifact, reused ones included."""

    def run(self, plan: Plan) -> None:
        """Make every step that needs making, in order. Raises StageFailed at the first that fails."""
        self.done |= {step.node.name: step.record for step in plan.steps if step.record is not None and not step.works}
        self._check_inputs(plan)
        for step in plan.work:
            self.done[step.node.name] = self._make(step)

    def _check_inputs(self, plan: Plan) -> None:
        """Before anything is made, as an --only may leave out what it stands on."""
        there = {*self.done, *(step.node.name for step in plan.work)}
        for step in plan.work:
            missing = [name for name in step.node.inputs.values() if name not in there]
            if missing:
                raise UserError(f"{step.node.name} needs {', '.join(missing)}, which does not exist yet; drop --only")
            if step.verdict == "adopt":  # training it here under the published checkpoint's key would be a lie
                raise UserError(
                    f"{step.node.name} would be taken from {step.reason}, which this version cannot do; set upstream=train"
                )

    def _make(self, step: Step) -> Record:
        work = self.store.begin(step.node.name, step.key, self._waiting)
        try:
            found = self.store.find(step.key)
            if found and step.record is None:  # another process made it while we waited
                return found
            return self._execute(step, work)
        finally:
            work.close()

    def _waiting(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.waiting(text)

    def _execute(self, step: Step, work: Work) -> Record:
        finished = not step.fresh and is_finished(work.path)
        job = read_job(work.path / "job.json") if finished else self._prepare(step, work)
        for watcher in self.watchers:
            watcher.started(step, work.path)
        try:
            if not finished:
                self._follow(step, work)
            record = self.store.commit(work, self._record(step, job, work.path))
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            for watcher in self.watchers:
                watcher.ended(step, status, None, work.path)
            raise
        for watcher in self.watchers:
            watcher.ended(step, "FINISHED", record, record.path)
        return record

    def _prepare(self, step: Step, work: Work) -> Job:
        resumes = not step.fresh and self.store.resume_point(step.node.name, step.key) is not None
        _clear(work.path, all_of_it=step.fresh, metrics=not resumes)
        job = Job(step.node.name, step.key, str(work.path), step.node.config, self.hardware, self._inputs(step))
        job.write()
        return job

    def _follow(self, step: Step, work: Work) -> None:
        """Start the worker and pass its lines on until it ends. Raises UserError or StageFailed when it ends badly."""
        lines = tail(work.path / "metrics.jsonl")
        next(lines)  # an earlier attempt's, told already
        running: Running = self.launcher.start(work.path, work.token, step.node.config.distributed)
        try:
            while (code := running.poll()) is None:
                self._report(step, next(lines))
                time.sleep(POLL_SECONDS)
        except BaseException:
            try:
                work.revoke()  # a launcher may end and leave ranks behind, on nodes that no signal of ours reaches
            finally:
                running.stop()
            raise
        self._report(step, next(lines))
        if code != 0 or not is_finished(work.path):
            raise _failure(step.node.name, work.path, code)

    def _report(self, step: Step, lines: list[dict[str, Any]]) -> None:
        if lines:
            for watcher in self.watchers:
                watcher.progressed(step, lines)

    def _inputs(self, step: Step) -> dict[str, Input]:
        return {role: self._input(self.done[name]) for role, name in step.node.inputs.items()}

    def _input(self, record: Record) -> Input:
        plain = Input(key=record.key, kind=record.kind, path=str(record.path), result=record.result)
        if not record.checkpoint:
            return plain
        base = self._required(record.checkpoint["base_key"])
        adapters = [self._required(key) for key in record.checkpoint["adapter_keys"]]
        return dataclasses.replace(
            plain,
            base=str(base.path),
            base_key=base.key,
            adapters=[str(adapter.path) for adapter in adapters],
            adapter_keys=[adapter.key for adapter in adapters],
        )

    def _required(self, key: str) -> Record:
        record = self.store.find(key)
        if record is None:
            raise UserError(f"a checkpoint stands on the artifact {key[:12]}, which is gone; run its node again with --force")
        return record

    def _record(self, step: Step, job: Job, work: Path) -> dict[str, Any]:
        run, written = work / "mlflow_run", work / "result.json"
        result = json.loads(written.read_text(encoding="utf-8"))
        return {
            "name": step.node.name,
            "key": step.key,
            "kind": step.node.kind,
            "payload": step.payload,
            "result": result,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(written.stat().st_mtime - (work / "job.json").stat().st_mtime, 2),
            "provenance": self.provenance,
            "hardware": dataclasses.asdict(job.hardware),
            "checkpoint": checkpoint(step.key, job, result),
            "mlflow_run": run.read_text(encoding="utf-8").strip() if run.exists() else "",
        }


def checkpoint(key: str, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """How to load what a node made: its base by key, and the adapters on it in order (B14).

    A full model is its own base. A continued adapter takes its parent's place; a new one joins the line.
    """
    form = result.get("checkpoint", {}).get("form")
    if form is None:
        return {}
    if form == "full":
        return {"form": "full", "base_key": key, "adapter_keys": []}
    parent = job.inputs["init"]
    before = parent.adapter_keys[:-1] if job.config.adapter == "continue" else parent.adapter_keys
    return {"form": "adapter", "base_key": parent.base_key, "adapter_keys": [*before, key]}


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


def _clear(work: Path, all_of_it: bool, metrics: bool) -> None:
    """Leftovers of an unfinished attempt; what it can go on from stays, unless the node was asked for again."""
    for path in (work / "result.json", work / "error.json", *work.glob("failed-*.txt")):
        path.unlink(missing_ok=True)
    if metrics:
        (work / "metrics.jsonl").unlink(missing_ok=True)
    for name in ("out", "resume") if all_of_it else ("out",):
        if (work / name).exists():
            shutil.rmtree(work / name)
    lines = work / "metrics.jsonl"
    if lines.exists():  # a line that was cut off would spoil the next one
        os.truncate(lines, lines.read_bytes().rfind(b"\n") + 1)
    (work / "out").mkdir()


def _failure(name: str, work: Path, code: int) -> PipelineError:
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
