"""What a reader of the scores must know: systems trained on their test set, scores without a meaning, nodes that stopped early.

Contamination is what data sources and published checkpoints declare in `trained_on`; no text is compared here.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from alma_pipeline.plan.plan import Cause, Step
from alma_pipeline.redact import redact
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.names import arrow
from alma_pipeline.report.systems import (
    CONTAMINATED,
    ScoredCheckpoint,
    System,
    scored_checkpoints,
    systems,
    variant_settings,
    variants,
    without_group,
)
from alma_pipeline.schema.metrics import metric_label
from alma_pipeline.store.store import Store

TRAINED_ON = "trained_on"


def contaminated_tests(job: ReportJob) -> dict[tuple[str, str], list[str]]:
    """(test set, system) to the sets in its training text that are, or overlap with, this test set."""
    found: dict[tuple[str, str], set[str]] = {}
    for evaluation in scored_checkpoints(job):
        if evaluation.from_files:
            continue  # the training data of other systems is unknown
        names = _test_names(job, evaluation.test)
        shared = names & _trained_on(job, evaluation.checkpoint)
        if shared:
            found.setdefault((evaluation.test_set, without_group(evaluation.checkpoint)), set()).update(shared)
    return {place: sorted(names) for place, names in found.items()}


def _test_names(job: ReportJob, test: str) -> set[str]:
    """Names of a test node's source: its repository, that of the setting it is a local copy of, and its declared overlaps."""
    source: Any = getattr(job.plan[test].node.config, "pairs", None)
    if source is None:
        return set()
    configured = job.config.data.test
    return {name for name in (source.repo, configured.repo, *source.trained_on) if name}


def _trained_on(job: ReportJob, node: str) -> set[str]:
    """The test sets declared by a checkpoint and by every node it depends on."""
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
    """Every entry of `trained_on` in a tree of settings, at any depth."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from child if key == TRAINED_ON else declared_test_sets(child)


def mark_contaminated(found: list[System], jobs: list[ReportJob]) -> list[System]:
    """The same systems, with `contaminated_by` filled in."""
    by_variant = [(variant_settings(variant), contaminated_tests(job)) for job, variant in zip(jobs, variants(jobs), strict=True)]

    def names(system: System) -> set[str]:
        # A system shared by several variants has only the settings they have in common, so it collects from all of them.
        own = [tests for settings, tests in by_variant if variant_settings(system.variant) <= settings]
        return {name for tests in own for name in tests.get((system.test, system.name), ())}

    return [replace(system, contaminated_by=sorted(names(system))) for system in found]


def footnotes(found: list[System]) -> list[str]:
    """One sentence for each marked system: what it was trained on."""
    return [
        f"{CONTAMINATED} {system.qualified_name} was trained on {', '.join(system.contaminated_by)}, which is or overlaps with "
        "this test set, so its scores on it do not measure quality on unseen text"
        for system in found
        if system.contaminated_by
    ]


def unscored_notes(evaluations: Iterable[ScoredCheckpoint], metric: str = "") -> list[str]:
    """A sentence for each metric that has no meaning for some directions, whose cells are empty; for one `metric`, or for all."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for evaluation in evaluations:
        for name, directions in evaluation.result.get("unscored", {}).items():
            for direction, reason in directions.items() if metric in ("", name) else ():
                reasons.setdefault((name, reason), []).append(arrow(direction))
    return [
        f"{metric_label(name)} is not scored for {', '.join(dict.fromkeys(directions))}: {reason}"
        for (name, reason), directions in reasons.items()
    ]


def contamination_notes(job: ReportJob) -> list[str]:
    """The footnotes on a recipe's own checkpoints, for places that show scores outside a report."""
    return footnotes(mark_contaminated(systems([job]), [job]))


DIVERGED = re.compile(r"^\S*Diverged: (.+)$", re.MULTILINE)
"""The last line of the traceback in a worker's failure file."""


def early_stops(jobs: list[ReportJob], store: Store) -> list[str]:
    """A sentence for each node that diverged and each round that was not needed; without repetitions across jobs."""
    found = [text for job in jobs for step in job.plan.steps for text in _early_stop(step, store)]
    return list(dict.fromkeys(found))


def _early_stop(step: Step, store: Store) -> Iterator[str]:
    if step.cause is Cause.ROUND_STOPPED:
        yield f"{step.node.name}: {step.reason}"
    if step.record is not None:
        return
    for path in sorted(store.work_path(step.node.name, step.key).glob("failed-*.txt")):
        reasons = DIVERGED.findall(redact(path.read_text(encoding="utf-8", errors="replace")))
        if reasons:
            yield f"{step.node.name} diverged and was stopped: {reasons[-1]}"
            return  # every rank writes the same reason
