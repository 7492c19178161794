"""One side of a comparison: something of the store, a run in MLflow, or a request.

Of the store it is a node name, a key or a folder: a checkpoint, its translations or scores alone, or a system whose
outputs were given, by that system's name too; a run is its name or id, or the id of a sweep, which stands for all its
runs; a request is its settings in quotes, with `seed=1,2,3` several.
"""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alma_pipeline.config.overrides import for_single_run
from alma_pipeline.errors import UserError
from alma_pipeline.report.jobs import plan_jobs
from alma_pipeline.report.names import describe_test_set
from alma_pipeline.report.systems import OUTPUTS_KIND, ScoredCheckpoint, System, base_name, systems
from alma_pipeline.store.identity import flatten
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

EVALUATION_KINDS = ("translate", "outputs", "score")


@dataclass(frozen=True)
class Side:
    """What a word of the command line stands for: settings and scored systems."""

    label: str
    payloads: dict[str, dict[str, Any]]
    """Kind, settings and inputs by node name; without the evaluations."""
    systems: list[System]
    significance: str = ""
    """The test that a request asks for."""


def find_side(root: Path, text: str) -> Side:
    """What a word of the command line means. Raises UserError where it means nothing."""
    store = Store(root)
    if "=" in text:
        return _request(store, text)
    try:
        record = find_artifact(store, f"{text}.{OUTPUTS_KIND}" if store.named(f"{text}.{OUTPUTS_KIND}") else text)
    except UserError as error:
        plans = _tracked(root, text)
        if not plans:
            raise UserError(f"{error}; MLflow has no run of that name or id either") from error
        return _runs(store, text, plans)
    return _stored(store, record)


def _request(store: Store, text: str) -> Side:
    jobs = plan_jobs([for_single_run(word) for word in shlex.split(text)], store)
    payloads = {step.node.name: step.payload for step in jobs[0].plan.steps if step.node.kind not in EVALUATION_KINDS}
    return Side(text, payloads, systems(jobs), jobs[0].config.evaluation.significance)


def _stored(store: Store, record: Record) -> Side:
    """With what it was made from; a group's nodes under their names without the group."""
    payloads = {base_name(record.name): record.payload} | dict(_before(store, record))
    evaluated = _newest(_evaluations(store.records(), {record.key: record.name}))
    decoded = [one.translations for one in evaluated if one.translations and not one.given]
    payloads |= {base_name(translations.name): translations.payload for translations in decoded}
    return Side(record.path.name, payloads, _as_systems([("", evaluated)], record.name))


def _newest(found: Iterator[ScoredCheckpoint]) -> list[ScoredCheckpoint]:
    """For each test set the newest translations, by the scores of them that hold most metrics, newer before older."""

    def rank(evaluation: ScoredCheckpoint) -> tuple[str, int, str]:
        made = evaluation.translations.created if evaluation.translations else ""
        return made, len(evaluation.result.get("signatures", {})), evaluation.scores.created

    by_test: dict[str, ScoredCheckpoint] = {}
    for evaluation in sorted(found, key=rank):
        by_test[evaluation.test_set] = evaluation
    return list(by_test.values())


def _before(store: Store, record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in record.payload["inputs"].values():
        if source := store.find(key):
            yield base_name(source.name), source.payload
            yield from _before(store, source)


def _tracked(root: Path, text: str) -> list[list[dict[str, Any]]]:
    """The plans of runs that MLflow remembers by these words; it is asked only where there is one to ask."""
    if not (root / "mlflow.db").exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        return []
    from alma_pipeline.tracking import runs

    return runs.invocation_plans(root, text)


def _runs(store: Store, text: str, plans: list[list[dict[str, Any]]]) -> Side:
    """The steps that runs recorded, with the artifacts of their keys."""
    payloads = {
        step["node"]: {"kind": step["kind"], "config": step["settings"], "inputs": step["inputs"]}
        for step in plans[0]
        if step["kind"] not in EVALUATION_KINDS
    }
    found = []
    for plan, variant in zip(plans, _variants(plans), strict=True):
        records = [record for step in plan if (record := store.find(step["key"]))]
        names = {
            step["key"]: step["node"] for step in plan if step["kind"] not in EVALUATION_KINDS or step["kind"] == OUTPUTS_KIND
        }
        found.append((variant, list(_evaluations(records, names))))
    return Side(text, payloads, _as_systems(found, ""))


def _variants(plans: list[list[dict[str, Any]]]) -> list[str]:
    """The settings that tell each plan from the others, but for seeds."""
    flat = [
        {f"{step['node']}.{key}": value for step in plan for key, value in flatten(step["settings"]).items()} for plan in plans
    ]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if not key.endswith(".seed")]
    told = [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]
    return [" ".join(f"{key}={one[key]}" for key in told if key in one) for one in flat]


def _evaluations(records: list[Record], subjects: dict[str, str]) -> Iterator[ScoredCheckpoint]:
    """Scores among the records that are, or are of the hypotheses or the checkpoint of, one of the subjects (name by key)."""
    by_key = {record.key: record for record in records}
    for scores in records:
        translations = by_key.get(scores.payload["inputs"].get("hypotheses", ""))
        if translations is None or scores.kind != "score":
            continue
        of = (translations.payload["inputs"].get("checkpoint", ""), translations.key, scores.key)
        name = next((subjects[key] for key in of if key in subjects), "")
        test = by_key.get(translations.payload["inputs"].get("test", ""))
        if name:
            given = translations.kind == OUTPUTS_KIND
            label = name.removesuffix(f".{OUTPUTS_KIND}") if given else name
            called = describe_test_set(test) if test else "a test set"
            yield ScoredCheckpoint(label, None, test.name if test else "", called, scores, translations, given)


def _as_systems(runs: list[tuple[str, list[ScoredCheckpoint]]], shown: str) -> list[System]:
    """A system for each name, variant and test set, with the runs as its seeds."""
    found: dict[tuple[str, str, str], System] = {}
    for variant, run in runs:
        for evaluation in run:
            place = evaluation.checkpoint, variant, evaluation.test_set
            system = found.setdefault(place, System(shown or evaluation.checkpoint, evaluation.test_set, variant))
            if all(evaluation.scores.key != seed[next(iter(seed))].scores.key for seed in system.seeds):
                system.seeds.append(dict.fromkeys(evaluation.result["directions"], evaluation))
    return list(found.values())
