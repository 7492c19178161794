"""Resolves one side of a comparison: an artifact in the store, an MLflow run, or a request.

An artifact is a node name, key or folder: a checkpoint, translations or scores, or the name of a system whose outputs are files.
A run is a name or id; a sweep's id means all of its runs. A request is quoted settings; `seed=1,2,3` makes several jobs.
"""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.config.overrides import for_single_run
from alma_pipeline.errors import UserError
from alma_pipeline.plan.node import OUTPUTS, base_name
from alma_pipeline.report.jobs import plan_jobs
from alma_pipeline.report.names import describe_test_set
from alma_pipeline.report.systems import OUTPUTS_KIND, ScoredCheckpoint, System, systems
from alma_pipeline.store.identity import flatten
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

EVALUATION_KINDS = ("translate", OUTPUTS_KIND, "score")


@dataclass(frozen=True)
class Side:
    """The settings and scored systems that one command line argument refers to."""

    label: str
    payloads: dict[str, dict[str, Any]]
    """Kind, settings and inputs by node name; evaluation nodes are left out."""
    systems: list[System]
    significance: str = ""
    """The significance test that a request configures; empty for artifacts and runs."""


def find_side(root: Path, text: str) -> Side:
    """Resolve a command line argument. Raises UserError if it names no artifact and no run."""
    store = Store(root)
    if "=" in text:
        return _request(store, text)
    try:
        record = find_artifact(store, f"{text}.{OUTPUTS}" if store.named(f"{text}.{OUTPUTS}") else text)
    except UserError as error:
        plans = _mlflow_plans(root, text, str(error))
        if not plans:
            raise UserError(f"{error}; MLflow has no run of that name or id either") from error
        return _runs(store, text, plans)
    return _stored(store, record)


def _request(store: Store, text: str) -> Side:
    jobs = plan_jobs([for_single_run(word) for word in shlex.split(text)], store)
    payloads = {step.node.name: step.payload for step in jobs[0].plan.steps if step.node.kind not in EVALUATION_KINDS}
    return Side(text, payloads, systems(jobs), jobs[0].config.evaluation.significance)


def _stored(store: Store, record: Record) -> Side:
    """An artifact with all its ancestors; nodes of a language group under their names without the group."""
    payloads = {base_name(record.name): record.payload} | dict(_ancestors(store, record))
    # Decoding settings change scores too, so the translations are compared along with the checkpoint.
    evaluated = _newest(_evaluations(store.records(), {record.key: record.name}))
    decoded = [one.translations for one in evaluated if one.translations and not one.from_files]
    payloads |= {base_name(translations.name): translations.payload for translations in decoded}
    return Side(record.path.name, payloads, _as_systems([("", evaluated)], record.name))


def _newest(found: Iterator[ScoredCheckpoint]) -> list[ScoredCheckpoint]:
    """For each test set the newest translations; of their scores those with most metrics, the newer ones on a tie."""

    def rank(evaluation: ScoredCheckpoint) -> tuple[datetime, int, datetime]:
        made = evaluation.translations.created if evaluation.translations else instants.NEVER
        return made, len(evaluation.result.get("signatures", {})), evaluation.scores.created

    by_test: dict[str, ScoredCheckpoint] = {}
    for evaluation in sorted(found, key=rank):
        by_test[evaluation.test_set] = evaluation
    return list(by_test.values())


def _ancestors(store: Store, record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and payload of every artifact that this one was made from, as far as the store still has them."""
    for key in record.payload["inputs"].values():
        if source := store.find(key):
            yield base_name(source.name), source.payload
            yield from _ancestors(store, source)


def _mlflow_plans(root: Path, text: str, otherwise: str) -> list[list[dict[str, Any]]]:
    """The plans that MLflow logged for a run name, run id or sweep id; empty without a tracking database or server.

    Raises UserError, which starts with `otherwise`, if MLflow does not answer.
    """
    if not (root / "mlflow.db").exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        return []
    from alma_pipeline.tracking import database, outbox, runs

    if problem := database.schema_problem(database.tracking_uri(root)):
        raise UserError(f"{otherwise}; {problem}")
    try:
        return runs.invocation_plans(root, text)
    except Exception as error:  # MLflow passes on errors of its database or HTTP library, which are not one class
        raise UserError(f"{otherwise}; MLflow has no answer: {outbox.reason(error)}") from error


def _runs(store: Store, text: str, plans: list[list[dict[str, Any]]]) -> Side:
    """The plans that runs logged, with the scores that the store has for their keys."""
    payloads = {
        step["node"]: {"kind": step["kind"], "config": step["settings"], "inputs": step["inputs"]}
        for step in plans[0]
        if step["kind"] not in EVALUATION_KINDS
    }
    # One entry per run: runs that differ in the seed alone become seeds of one system.
    found = []
    for plan, variant in zip(plans, _variants(plans), strict=True):
        records = [record for step in plan if (record := store.find(step["key"]))]
        names = {
            step["key"]: step["node"] for step in plan if step["kind"] not in EVALUATION_KINDS or step["kind"] == OUTPUTS_KIND
        }
        found.append((variant, list(_evaluations(records, names))))
    return Side(text, payloads, _as_systems(found, ""))


def _variants(plans: list[list[dict[str, Any]]]) -> list[str]:
    """For each plan the settings, other than seeds, in which the plans differ."""
    flat = [
        {f"{step['node']}.{key}": value for step in plan for key, value in flatten(step["settings"]).items()} for plan in plans
    ]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if not key.endswith(".seed")]
    differing = [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]
    return [" ".join(f"{key}={one[key]}" for key in differing if key in one) for one in flat]


def _evaluations(records: list[Record], subjects: dict[str, str]) -> Iterator[ScoredCheckpoint]:
    """Those scores among `records` that belong to a subject (key → name): a checkpoint, translations, or the scores."""
    by_key = {record.key: record for record in records}
    for scores in records:
        translations = by_key.get(scores.payload["inputs"].get("hypotheses", ""))
        if translations is None or scores.kind != "score":
            continue
        # The checkpoint's name is preferred: it is how the system is known everywhere else.
        lineage = (translations.payload["inputs"].get("checkpoint", ""), translations.key, scores.key)
        name = next((subjects[key] for key in lineage if key in subjects), "")
        test = by_key.get(translations.payload["inputs"].get("test", ""))
        if name:
            from_files = translations.kind == OUTPUTS_KIND
            label = name.removesuffix(f".{OUTPUTS}") if from_files else name
            test_set = describe_test_set(test) if test else "unknown test set"
            yield ScoredCheckpoint(label, None, test.name if test else "", test_set, scores, translations, from_files)


def _as_systems(runs: list[tuple[str, list[ScoredCheckpoint]]], shown: str) -> list[System]:
    """A system for each name, variant and test set, with the runs as its seeds. `shown`: one name for all, or empty."""
    found: dict[tuple[str, str, str], System] = {}
    for variant, run in runs:
        for evaluation in run:
            place = evaluation.checkpoint, variant, evaluation.test_set
            system = found.setdefault(place, System(shown or evaluation.checkpoint, evaluation.test_set, variant))
            # Runs that reused the same scores are one seed.
            if all(evaluation.scores.key != seed[next(iter(seed))].scores.key for seed in system.seeds):
                system.seeds.append(dict.fromkeys(evaluation.result["directions"], evaluation))
    return list(found.values())
