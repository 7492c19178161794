"""Which systems were trained on the test set they are scored on, by what sources and published checkpoints say of themselves."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from alma_pipeline.plan.plan import Cause, Step
from alma_pipeline.redact import redact
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.systems import CONTAMINATED, System, base_name, scored_checkpoints, systems, variant_settings, variants
from alma_pipeline.store.store import Store

TRAINED_ON = "trained_on"


def contaminated_tests(job: ReportJob) -> dict[tuple[str, str], list[str]]:
    """(test set, system) to the test sets that a system was trained on, of those that this one is or overlaps."""
    found: dict[tuple[str, str], set[str]] = {}
    for evaluation in scored_checkpoints(job):
        if evaluation.given:
            continue  # what other systems were trained on is not known here
        names = _test_names(job, evaluation.test)
        shared = names & _trained_on(job, evaluation.checkpoint)
        if shared:
            found.setdefault((evaluation.test_set, base_name(evaluation.checkpoint)), set()).update(shared)
    return {place: sorted(names) for place, names in found.items()}


def _test_names(job: ReportJob, test: str) -> set[str]:
    """The names of the test's own source: its repository, also where a copy on disk is read, and what it says it overlaps."""
    source: Any = getattr(job.plan[test].node.config, "pairs", None)
    if source is None:
        return set()
    asked = job.config.data.test
    return {name for name in (source.repo, asked.repo, *source.trained_on) if name}


def _trained_on(job: ReportJob, node: str) -> set[str]:
    """What a checkpoint and everything before it says it was trained on."""
    names: set[str] = set()
    frontier, done = [node], set()
    while frontier:
        name = frontier.pop()
        if name in done:
            continue
        done.add(name)
        step = job.plan[name]
        names |= set(declared_test_sets(step.payload["config"]))
        frontier += step.inputs.values()
    return names


def declared_test_sets(value: Any) -> Iterator[str]:
    """Every `trained_on` in settings, however deep."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from child if key == TRAINED_ON else declared_test_sets(child)


def mark_contaminated(found: list[System], jobs: list[ReportJob]) -> list[System]:
    """The systems, those that were trained on their test set knowing of which."""
    told = [(variant_settings(variant), contaminated_tests(job)) for job, variant in zip(jobs, variants(jobs), strict=True)]

    def names(system: System) -> set[str]:
        own = [sets for settings, sets in told if variant_settings(system.variant) <= settings]
        return {name for sets in own for name in sets.get((system.test, system.name), ())}

    return [replace(system, seen=sorted(names(system))) for system in found]


def footnotes(found: list[System]) -> list[str]:
    """What the mark at a name stands for, a sentence for each system that has one."""
    return [
        f"{CONTAMINATED} {system.label.removesuffix(CONTAMINATED).rstrip()} was trained on {', '.join(system.seen)}, which this test set is or "
        "overlaps: its scores say nothing of new text"
        for system in found
        if system.seen
    ]


def contamination_notes(job: ReportJob) -> list[str]:
    """The notes on a recipe's own checkpoints, for who sees the scores elsewhere than in a report."""
    return footnotes(mark_contaminated(systems([job]), [job]))


DIVERGED = re.compile(r"^\S*Diverged: (.+)$", re.MULTILINE)
"""The last line of the traceback that a worker leaves."""


def early_stops(jobs: list[ReportJob], store: Store) -> list[str]:
    """A sentence for each node of the recipe, of all jobs once."""
    found = [text for job in jobs for step in job.plan.steps for text in _stop(step, store)]
    return list(dict.fromkeys(found))


def _stop(step: Step, store: Store) -> Iterator[str]:
    if step.cause is Cause.ROUND_STOPPED:
        yield f"{step.node.name}: {step.reason}"
    if step.record is not None:
        return
    for path in sorted(store.work_path(step.node.name, step.key).glob("failed-*.txt")):
        fired = DIVERGED.findall(redact(path.read_text(encoding="utf-8", errors="replace")))
        if fired:
            yield f"{step.node.name} diverged and was stopped: {fired[-1]}"
            return  # all ranks say the same
