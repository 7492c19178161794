"""Which systems were trained on the test set they are scored on, by what sources and published checkpoints say of themselves."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from alma_pipeline.plan.plan import Cause, Step
from alma_pipeline.redact import redact
from alma_pipeline.report.jobs import Job
from alma_pipeline.report.systems import MARK, System, base_name, evaluations, settings_of, systems, variants
from alma_pipeline.store.store import Store

TOLD = "trained_on"


def seen(job: Job) -> dict[tuple[str, str], list[str]]:
    """(test set, system) to the test sets that a system was trained on, of those that this one is or overlaps."""
    found: dict[tuple[str, str], set[str]] = {}
    for evaluation in evaluations(job):
        if evaluation.given:
            continue  # what other systems were trained on is not known here
        names = _test_names(job, evaluation.test)
        shared = names & _trained_on(job, evaluation.checkpoint)
        if shared:
            found.setdefault((evaluation.test_set, base_name(evaluation.checkpoint)), set()).update(shared)
    return {place: sorted(names) for place, names in found.items()}


def _test_names(job: Job, test: str) -> set[str]:
    """The names of the test's own source: its repository, also where a copy on disk is read, and what it says it overlaps."""
    source: Any = getattr(job.plan[test].node.config, "pairs", None)
    if source is None:
        return set()
    asked = job.config.data.test
    return {name for name in (source.repo, asked.repo, *source.trained_on) if name}


def _trained_on(job: Job, node: str) -> set[str]:
    """What a checkpoint and everything before it says it was trained on."""
    names: set[str] = set()
    frontier, done = [node], set()
    while frontier:
        name = frontier.pop()
        if name in done:
            continue
        done.add(name)
        step = job.plan[name]
        names |= set(stated(step.payload["config"]))
        frontier += step.inputs.values()
    return names


def stated(value: Any) -> Iterator[str]:
    """Every `trained_on` in settings, however deep."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from child if key == TOLD else stated(child)


def marked(found: list[System], jobs: list[Job]) -> list[System]:
    """The systems, those that were trained on their test set knowing of which."""
    told = [(settings_of(variant), seen(job)) for job, variant in zip(jobs, variants(jobs), strict=True)]

    def names(system: System) -> set[str]:
        own = [sets for settings, sets in told if settings_of(system.variant) <= settings]
        return {name for sets in own for name in sets.get((system.test, system.name), ())}

    return [replace(system, seen=sorted(names(system))) for system in found]


def notes(found: list[System]) -> list[str]:
    """What the mark at a name stands for, a sentence for each system that has one."""
    return [
        f"{MARK} {system.label.removesuffix(MARK).rstrip()} was trained on {', '.join(system.seen)}, which this test set is or "
        "overlaps: its scores say nothing of new text"
        for system in found
        if system.seen
    ]


def told(job: Job) -> list[str]:
    """The notes on a recipe's own checkpoints, for who sees the scores elsewhere than in a report."""
    return notes(marked(systems([job]), [job]))


FIRED = re.compile(r"^\S*Diverged: (.+)$", re.MULTILINE)
"""The last line of the traceback that a worker leaves."""


def stops(jobs: list[Job], store: Store) -> list[str]:
    """A sentence for each node of the recipe, of all jobs once."""
    found = [text for job in jobs for step in job.plan.steps for text in _stop(step, store)]
    return list(dict.fromkeys(found))


def _stop(step: Step, store: Store) -> Iterator[str]:
    if step.cause is Cause.ROUND_STOPPED:
        yield f"{step.node.name}: {step.reason}"
    if step.record is not None:
        return
    for path in sorted(store.work_path(step.node.name, step.key).glob("failed-*.txt")):
        fired = FIRED.findall(redact(path.read_text(encoding="utf-8", errors="replace")))
        if fired:
            yield f"{step.node.name} diverged and was stopped: {fired[-1]}"
            return  # all ranks say the same
