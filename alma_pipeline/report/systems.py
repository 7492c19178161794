"""Which translation systems a recipe has: evaluated checkpoints, and adapters of groups as one system routed by language.

From plans and records to hypotheses and scores by direction. Compares nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from alma_pipeline.plan.node import Node
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.names import describe_test_set
from alma_pipeline.schema.metrics import METRICS
from alma_pipeline.store.record import Record

SEED_OVERRIDE = "seed="
CONTAMINATED = "†"
"""Behind the name of a system that was trained on the test set."""
OUTPUTS_KIND = "outputs"
"""The kind of node that reads another system's outputs."""


@dataclass(frozen=True)
class ScoredCheckpoint:
    """One checkpoint on one test set: a `score` node, and the `translate` node it is about."""

    checkpoint: str
    """The node that made it; the name of a system whose outputs were given."""
    group: int | None
    test: str
    """The test set's node."""
    test_set: str
    """What it is called."""
    scores: Record
    translations: Record | None
    given: bool = False
    """Whether the outputs came from files and not from a checkpoint."""

    @property
    def result(self) -> dict[str, Any]:
        """What the score node found."""
        return self.scores.result

    def score(self, direction: str, metric: str) -> float | None:
        """A direction's score; None where it has none."""
        value = self.result["directions"].get(direction, {}).get(metric)
        return value if isinstance(value, (int, float)) else None

    def mean(self, directions: list[str], metric: str) -> float | None:
        """Over those of the directions that have a score; None where none has."""
        values = [value for direction in directions if (value := self.score(direction, metric)) is not None]
        return sum(values) / len(values) if values else None

    def signature(self, direction: str, metric: str) -> str:
        """What determines the number; scores of different ones are not comparable (B49)."""
        found = self.result.get("signatures", {}).get(metric, "")
        return str(found.get(direction, "")) if isinstance(found, dict) else str(found)

    def lower_is_better(self, metric: str) -> bool:
        """Whether fewer is better, as of errors."""
        entry = METRICS.get(metric)
        return entry.lower_is_better if entry else metric in self.result.get("lower_is_better", ())

    @cached_property
    def segments(self) -> dict[str, list[dict[str, Any]]]:
        """Hypotheses by direction, with their own scores where those were kept; empty where they are gone."""
        found: dict[str, list[dict[str, Any]]] = {}
        path = next((path for path in self._places() if path.is_file()), None)
        if path:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    found.setdefault(row["direction"], []).append(row)
        return found

    def _places(self) -> Iterator[Path]:
        yield self.scores.path / "segments.jsonl"
        if self.translations:
            yield self.translations.path / "hypotheses.jsonl"


@dataclass(frozen=True)
class System:
    """A column of the score tables."""

    name: str
    test: str
    variant: str = ""
    """The overrides that tell it from a system of the same name."""
    parent: str = ""
    """What it is compared with: the system it was trained from, the nearest that is evaluated; for one of given outputs the
    recipe's target, else the first of their kind."""
    target: bool = False
    given: bool = False
    """Whether its outputs came from files."""
    seeds: list[dict[str, ScoredCheckpoint]] = field(default_factory=list)
    """Evaluation by direction, for each seed."""
    seen: list[str] = field(default_factory=list)
    """Test sets that it was trained on and that stand in this one."""

    @property
    def label(self) -> str:
        """What stands at the head of its column."""
        return f"{self.called} {CONTAMINATED}" if self.seen else self.called

    @property
    def called(self) -> str:
        """Its name, with what tells it from others of that name."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def stands(self) -> str:
        """`from parallel` or `against cpo`: to what, and how; empty where it is compared with nothing."""
        return f"{'against' if self.given else 'from'} {self.parent}" if self.parent else ""

    @property
    def directions(self) -> list[str]:
        """Every direction that one of its seeds was scored on."""
        return list(dict.fromkeys(direction for seed in self.seeds for direction in seed))

    def values(self, direction: str, metric: str) -> list[float]:
        """One for each seed that has it."""
        found = (seed[direction].score(direction, metric) for seed in self.seeds if direction in seed)
        return [value for value in found if value is not None]

    def first(self, direction: str) -> ScoredCheckpoint | None:
        """A direction's evaluation in the first seed that has one."""
        return next((seed[direction] for seed in self.seeds if direction in seed), None)


def scored_checkpoints(job: ReportJob) -> Iterator[ScoredCheckpoint]:
    """Of every scored checkpoint, in the recipe's order."""
    for step in job.plan.steps:
        record = job.records.get(step.node.name)
        if step.node.kind == "score" and record:
            yield _evaluation(job, step.node, record)


def _evaluation(job: ReportJob, score: Node, scores: Record) -> ScoredCheckpoint:
    hypotheses = job.plan[score.inputs["hypotheses"]].node
    test, translations = hypotheses.inputs.get("test", ""), job.records.get(hypotheses.name)
    record = job.records.get(test)
    called = describe_test_set(record) if record else test
    if hypotheses.kind == OUTPUTS_KIND:
        return ScoredCheckpoint(
            hypotheses.name.removesuffix(f".{OUTPUTS_KIND}"), None, test, called, scores, translations, given=True
        )
    checkpoint = job.plan[hypotheses.inputs["checkpoint"]].node
    return ScoredCheckpoint(checkpoint.name, checkpoint.group, test, called, scores, translations)


def systems(jobs: list[ReportJob]) -> list[System]:
    """Of all jobs: jobs that differ in the seed alone are one system with several seeds, what jobs share stands once."""
    found: dict[tuple[str, str, str], System] = {}
    for job, variant in zip(jobs, variants(jobs), strict=True):
        for (test, name), routed in _routed(job).items():
            given = next(iter(routed.values())).given
            parent = _rival(job, name) if given else _parent(job, name)
            new = System(name, test, variant, parent, _is_target(job, name), given)
            system = found.setdefault((test, name, variant), new)
            keys = _keys(routed)
            if all(_keys(seed) != keys for seed in system.seeds):
                system.seeds.append(routed)
    return _shared_once(list(found.values()))


def variants(jobs: list[ReportJob]) -> list[str]:
    """For each job the settings that tell it from the others, but for the seed; what all were given would only make it long."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
    return [" ".join(text for text in job.overrides if text not in shared and not text.startswith(SEED_OVERRIDE)) for job in jobs]


def _shared_once(found: list[System]) -> list[System]:
    """What several variants have in common, such as the checkpoints before a changed setting, by the settings that these share:
    none where all variants do."""
    by_keys: dict[tuple[Any, ...], list[System]] = {}
    for system in found:
        by_keys.setdefault((system.test, system.name, *(_keys(seed) for seed in system.seeds)), []).append(system)
    return [replace(group[0], variant=_common([system.variant for system in group])) for group in by_keys.values()]


def _common(names: list[str]) -> str:
    shared = set.intersection(*map(variant_settings, names))
    return " ".join(word for word in names[0].split(" ") if word in shared)


def variant_settings(variant: str) -> set[str]:
    """The overrides in a variant's name; what several variants share has some of each one's."""
    return set(variant.split())


def _keys(routed: dict[str, ScoredCheckpoint]) -> tuple[str, ...]:
    return tuple(sorted({evaluation.scores.key for evaluation in routed.values()}))


def _routed(job: ReportJob) -> dict[tuple[str, str], dict[str, ScoredCheckpoint]]:
    """(test set, system) → evaluation by direction; a group's adapter answers for its own languages."""
    found: dict[tuple[str, str], dict[str, ScoredCheckpoint]] = {}
    for evaluation in scored_checkpoints(job):
        own = found.setdefault((evaluation.test_set, base_name(evaluation.checkpoint)), {})
        for direction in evaluation.result["directions"]:
            if evaluation.group is None or group_of(job, direction) == evaluation.group:
                own[direction] = evaluation
    return {key: routed for key, routed in found.items() if routed}


def one_line(text: str) -> str:
    """As the scores saw it: line breaks as spaces, so that no tool takes one segment for two (B45)."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def base_name(node: str) -> str:
    """`g5.arpo` → `arpo`."""
    return node.rpartition(".")[2]


def group_of(job: ReportJob, direction: str) -> int | None:
    """The language group of a direction: that of its first language that is not English."""
    codes = [code for code in direction.split("-") if code != "en"]
    language = job.config.languages.get(codes[0]) if codes else None
    return language.group if language else None


def _is_target(job: ReportJob, name: str) -> bool:
    return any(step.node.target and base_name(step.node.name) == name for step in job.plan.steps)


def _parent(job: ReportJob, name: str) -> str:
    """The nearest evaluated system before one, along `init`; of several groups' checkpoints the nearest of all."""
    scored = {evaluation.checkpoint for evaluation in scored_checkpoints(job)}
    found = (_before(job, checkpoint, scored) for checkpoint in scored if base_name(checkpoint) == name)
    return min((place for place in found if place), default=(0, ""))[1]


def _before(job: ReportJob, checkpoint: str, scored: set[str]) -> tuple[int, str] | None:
    """Steps along `init` to the nearest scored checkpoint, and its name without the group."""
    node, steps = job.plan[checkpoint].node, 0
    while source := node.inputs.get("init", ""):
        steps += 1
        if source in scored:
            return steps, base_name(source)
        node = job.plan[source].node
    return None


def _rival(job: ReportJob, name: str) -> str:
    """What given outputs are compared with: the target where there is one, else the first given outputs."""
    found = list(scored_checkpoints(job))
    targets = {base_name(step.node.name) for step in job.plan.steps if step.node.target}
    ours = [base_name(evaluation.checkpoint) for evaluation in found if not evaluation.given]
    first = [each for each in ours if each in targets] or [evaluation.checkpoint for evaluation in found if evaluation.given]
    return first[0] if first[0] != name else ""


def on_all_groups(job: ReportJob) -> Iterator[tuple[ScoredCheckpoint, int]]:
    """Adapters on the directions of groups not their own, where the evaluation asked for it: (evaluation, group)."""
    for evaluation in scored_checkpoints(job):
        if evaluation.group is not None:
            groups = {group_of(job, direction) for direction in evaluation.result["directions"]}
            yield from ((evaluation, group) for group in sorted(group for group in groups if group is not None))
