"""Runs a plan: chooses the next nodes, runs them side by side and commits their artifacts. Independent of models."""

import contextlib
import dataclasses
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from alma_pipeline.errors import Interrupted, PipelineError, StageFailed, UserError
from alma_pipeline.execution import restart
from alma_pipeline.execution.attempt import Attempt, clear_leftovers, has_result, truncate_metrics
from alma_pipeline.execution.finished import content
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.job import Input, Job, read_job
from alma_pipeline.plan import disk_space, rounds
from alma_pipeline.plan.plan import Plan, Step
from alma_pipeline.schema import Hardware
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store, WorkFolder

POLL_SECONDS = 0.05
END_SECONDS, NOTICE_SECONDS = 30.0, 600.0
"""How long workers get for a resume point: after SIGTERM or SIGHUP, which Kubernetes and Slurm follow up with SIGKILL after 30 s;
and after a cluster's notice, SIGUSR1 or SIGUSR2, after which the cluster itself ends what takes too long."""


class Watcher(Protocol):
    """Follows the run of a plan: the progress display, and tracking."""

    def started(self, step: Step, work: Path) -> None:
        """A node's worker is about to start in this folder."""

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        """Its worker has written these metrics lines."""

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        """`status`: FINISHED, FAILED or KILLED. `work`: the work folder, or the artifact's folder if FINISHED."""

    def waiting(self, text: str) -> None:
        """The runner waits for something, or leaves a step out; `text` names it."""

    def restarts(self, step: Step, text: str) -> None:
        """Its worker ended, for the reason in `text`, and another one is about to continue."""


@dataclass
class Runner:
    """One invocation's execution of a plan."""

    store: Store
    hardware: Hardware
    launcher: Launcher
    watchers: list[Watcher]
    provenance: dict[str, Any]
    done: dict[str, Record] = field(default_factory=dict)
    """Node name → artifact, reused ones included; after `run` in the order of the plan, which tables follow."""
    _steps: list[Step] = field(default_factory=list)
    """Those that wait to be started, or to be started again."""
    _attempts: list[Attempt] = field(default_factory=list)
    _left_out: set[str] = field(default_factory=set)

    def run(self, plan: Plan) -> None:
        """Run every step of the plan's work as soon as its inputs exist.

        Raises StageFailed or UserError when a step fails, and PipelineError when the disk is too full for one; steps that
        still run are then stopped. After a signal that may precede the end (Interrupted), they write resume points first.
        """
        self.done |= {step.node.name: step.record for step in plan.steps if step.record is not None and not step.works}
        self._check_inputs(plan)
        self._steps = list(plan.work)
        try:
            # One pass starts what can start and advances what runs; sleep only when nothing finished.
            while self._steps or self._attempts:
                self._steps = [step for step in self._steps if not self._leave_out(step) and not self._start(step)]
                if not any([self._advance(attempt) for attempt in [*self._attempts]]):
                    time.sleep(POLL_SECONDS)
        except Interrupted as interrupted:
            self._give_notice(interrupted)
            raise
        finally:
            # Interrupted, or another one failed. All are ended, even if a watcher fails, as a display does whose reader is gone.
            with contextlib.ExitStack() as ends:
                for attempt in reversed(self._attempts):
                    ends.callback(self._end, attempt, "KILLED")
        # Nodes that ran side by side finished in any order.
        self.done = {step.node.name: self.done[step.node.name] for step in plan.steps if step.node.name in self.done}

    def _leave_out(self, step: Step) -> bool:
        """Whether the step is skipped because a preference round before it ended the rounds; if so, report it."""
        for name in step.node.inputs.values():
            record = self.done.get(name)
            reason = f"{name} was skipped" if name in self._left_out else rounds.stopped(record.result) if record else ""
            if reason:
                self._left_out.add(step.node.name)
                self._waiting(f"{step.node.name} is skipped: {reason}")
                return True
        return False

    def _check_inputs(self, plan: Plan) -> None:
        """Raise UserError if a step's input neither exists nor will be made: --only may exclude it."""
        available = {*self.done, *(step.node.name for step in plan.work)}
        for step in plan.work:
            missing = [name for name in step.inputs.values() if name not in available]
            if missing:
                raise UserError(f"{step.node.name} needs {', '.join(missing)}, which does not exist yet; drop --only")
        # Damage is found before the first node starts, not after days.
        read = dict.fromkeys(name for step in plan.work for name in step.inputs.values() if name in self.done)
        self.store.check_files(*(record for name in read for record in loaded_with(self.store, self.done[name])))

    def _start(self, step: Step) -> bool:
        """Start the step and return True, also if its artifact exists by now; False while inputs or free slots are missing."""
        if len(self._attempts) >= self.hardware.max_parallel_nodes or not self.done.keys() >= set(step.inputs.values()):
            return False
        # Running nodes delete their resume points when they finish.
        if self._attempts and disk_space.node_shortage(step, self.store):
            return False
        work = self._begin(step)
        if work is None:
            return False
        try:
            # Look again: another process may have made it while this one waited.
            found = self.store.find(step.key)
            if found and step.record is None:
                self.done[step.node.name] = found
                work.close()
                return True
            if shortage := disk_space.node_shortage(step, self.store):
                raise PipelineError(f"{shortage}; {disk_space.ADVICE}; finished work is kept, and the same command resumes")
            job = self._job(step, work)
            attempt = Attempt(step, work, job, restart.position(self.store, step.node.name, step.key))
        except BaseException:  # without an attempt, nothing else would release the lock
            work.close()
            raise
        self._attempts.append(attempt)
        self._launch(attempt)
        return True

    def _begin(self, step: Step) -> WorkFolder | None:
        """Acquire the work folder; wait for it only if none of our nodes runs, as its holder may wait for that node."""
        if self._attempts:
            return self.store.begin_if_free(step.node.name, step.key)
        return self.store.begin(step.node.name, step.key, self._waiting)

    def _waiting(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.waiting(text)

    def _job(self, step: Step, work: WorkFolder) -> Job:
        """Prepare the work folder and write its job; a finished worker's job is kept, and only its commit remains."""
        if not step.fresh and has_result(work.path):
            return read_job(work.path / "job.json")
        point = None if step.fresh else self.store.resume_point(step.node.name, step.key)
        clear_leftovers(work.path, fresh=step.fresh)
        truncate_metrics(work.path / "metrics.jsonl", last_step=int(point["step"]) if point else 0)
        node, inputs = step.node, self._inputs(step)
        hardware = restart.lowered_hardware(work.path, step.settled(self.hardware))
        job = Job(node.name, step.key, str(work.path), step.config, hardware, inputs, node.files, node.codes)
        job.write()
        return job

    def _launch(self, attempt: Attempt) -> None:
        for watcher in self.watchers:
            watcher.started(attempt.step, attempt.work.path)
        try:
            attempt.start(self.launcher)
        except Exception:
            self._end(attempt, "FAILED")
            raise

    def _advance(self, attempt: Attempt) -> bool:
        """Report new metrics; if the worker has ended, commit its artifact or start it again. Whether it has ended."""
        try:
            # Ask for the end first: metrics read after it are complete.
            ended = attempt.has_ended()
            self._report(attempt)
            if not ended:
                return False
            if attempt.restart:
                self._start_again(attempt, attempt.restart)
                return True
            record = self.store.commit(attempt.work, content(attempt.step, attempt.job, self.provenance))
        except Exception:
            self._report(attempt)
            self._end(attempt, "FAILED")
            raise
        self.done[attempt.step.node.name] = record
        self._end(attempt, "FINISHED", record)
        return True

    def _start_again(self, attempt: Attempt, wanted: restart.Restart) -> None:
        """Put the step back to those that wait. Raises StageFailed if it is to end for good, or got no further."""
        step, name = attempt.step, attempt.step.node.name
        now = restart.position(self.store, name, step.key)
        log = str(attempt.work.path / "log.txt")
        if wanted.for_good:
            raise StageFailed(name, f"{wanted.reason}; the same command resumes {restart.in_words(now)}", log)
        if not wanted.micro_batch_tokens and now <= attempt.started_at:
            raise StageFailed(name, restart.no_progress(self.hardware, step.config, wanted, now), log)
        text = f"{name}: {wanted.reason}; it continues {restart.in_words(now)}"
        if wanted.micro_batch_tokens:
            found = attempt.job.hardware.micro_batch_tokens
            restart.remember_budget(attempt.work.path, found, wanted.micro_batch_tokens)
            text += f" with hardware.micro_batch_tokens={wanted.micro_batch_tokens} (was {found}), which changes no result"
        for watcher in self.watchers:
            watcher.restarts(step, text)
        # The folder is taken anew: with a new token, ranks that a launcher has left on other machines end.
        self._attempts.remove(attempt)
        attempt.work.close()
        self._steps.append(dataclasses.replace(step, verdict="resume", reason=restart.in_words(now), fresh=False))

    def _give_notice(self, interrupted: Interrupted) -> None:
        """Have running workers write resume points, as long as the signal allows; note from where each node resumes."""
        limit = END_SECONDS if interrupted.number in (signal.SIGTERM, signal.SIGHUP) else NOTICE_SECONDS
        running, asked = [*self._attempts], [attempt for attempt in self._attempts if attempt.give_notice()]
        if asked:
            names = ", ".join(attempt.step.node.name for attempt in asked)
            self._waiting(f"waiting up to {limit:.0f} s for a resume point of {names}; SIGTERM or Ctrl-C ends at once")
        until = time.monotonic() + limit
        while asked and time.monotonic() < until and not interrupted.hurried:
            asked = [attempt for attempt in asked if not self._finish(attempt)]
            time.sleep(POLL_SECONDS)
        for step in (attempt.step for attempt in running if attempt.step.node.name not in self.done):
            at = restart.position(self.store, step.node.name, step.key)
            interrupted.left.append(f"{step.node.name} resumes {restart.in_words(at)}")

    def _finish(self, attempt: Attempt) -> bool:
        """Whether a worker that was given notice has ended; its artifact is committed if that was its last step."""
        try:
            if not attempt.has_ended():
                return False
            if attempt.restart:
                self._report(attempt)
                self._end(attempt, "KILLED")
            else:
                self._advance(attempt)
        except PipelineError:  # its log has it; what ends the command is the signal
            if attempt in self._attempts:
                self._end(attempt, "FAILED")
        return True

    def _report(self, attempt: Attempt) -> None:
        if lines := next(attempt.new_metrics):
            for watcher in self.watchers:
                watcher.progressed(attempt.step, lines)

    def _end(self, attempt: Attempt, status: str, record: Record | None = None) -> None:
        self._attempts.remove(attempt)
        try:
            attempt.stop()
            for watcher in self.watchers:
                watcher.ended(attempt.step, status, record, record.path if record else attempt.work.path)
        finally:
            attempt.work.close()

    def _inputs(self, step: Step) -> dict[str, Input]:
        return {role: job_input(self.store, self.done[name]) for role, name in step.inputs.items()}


def job_input(store: Store, record: Record) -> Input:
    """A finished artifact as the input of a job, a checkpoint with its base and adapters; their files are checked.

    Raises UserError if one of those is missing from the store, or if a file differs from its record.
    """
    store.check_files(*loaded_with(store, record))
    plain = Input(key=record.key, kind=record.kind, path=str(record.path), result=record.result)
    if not record.checkpoint:
        return plain
    base, *adapters = _loading_order(store, record)
    return dataclasses.replace(
        plain,
        base=str(base.path),
        base_key=base.key,
        adapters=[str(adapter.path) for adapter in adapters],
        adapter_keys=[adapter.key for adapter in adapters],
    )


def loaded_with(store: Store, record: Record) -> list[Record]:
    """The artifact, and for a checkpoint the others that it is loaded with. Raises UserError if one is missing."""
    others = _loading_order(store, record) if record.checkpoint else []
    return [record, *(other for other in others if other.key != record.key)]


def _loading_order(store: Store, checkpoint: Record) -> list[Record]:
    return [_required(store, key) for key in (checkpoint.checkpoint["base_key"], *checkpoint.checkpoint["adapter_keys"])]


def _required(store: Store, key: str) -> Record:
    record = store.find(key)
    if record is None:
        lack = store.incomplete(key) or f"the artifact {key[:12]} is missing"
        raise UserError(f"a checkpoint cannot be loaded: {lack}; run the node that made it again with --force")
    return record
