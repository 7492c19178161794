"""The translation systems of a recipe, with their scores and hypotheses by direction.

A system is an evaluated checkpoint, the adapters of all language groups routed by direction, or outputs read from files.
Compares nothing.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from alma_pipeline.plan.node import OUTPUTS, Node
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.names import describe_test_set
from alma_pipeline.schema.metrics import METRICS
from alma_pipeline.store.damage import checked_content
from alma_pipeline.store.record import Record

SEED_OVERRIDE = "seed="
CONTAMINATED = "†"
"""Appended to the name of a system that was trained on its test set."""
OUTPUTS_KIND = "system_outputs"
"""The kind of node that reads another system's outputs."""


@dataclass(frozen=True)
class ScoredCheckpoint:
    """One checkpoint's scores on one test set: a `score` node and the `translate` node that it scores."""

    checkpoint: str
    """Node name of the checkpoint, or the name of a system whose outputs are files."""
    group: int | None
    test: str
    """Node name of the test set."""
    test_set: str
    """Description of the test set; see `names.describe_test_set`."""
    scores: Record
    translations: Record | None
    from_files: bool = False
    """Whether the hypotheses were read from files and not decoded by a checkpoint."""

    @property
    def result(self) -> dict[str, Any]:
        """The result of the score node."""
        return self.scores.result

    def score(self, direction: str, metric: str) -> float | None:
        """A direction's score; None if it has none."""
        value = self.result["directions"].get(direction, {}).get(metric)
        return value if isinstance(value, (int, float)) else None

    def mean(self, directions: list[str], metric: str) -> float | None:
        """The mean over those directions that have a score; None if none has."""
        values = [value for direction in directions if (value := self.score(direction, metric)) is not None]
        return sum(values) / len(values) if values else None

    def signature(self, direction: str, metric: str) -> str:
        """The metric's signature; scores with different signatures are not comparable (B49). Empty if unknown."""
        found = self.result.get("signatures", {}).get(metric, "")
        return str(found.get(direction, "")) if isinstance(found, dict) else str(found)

    def lower_is_better(self, metric: str) -> bool:
        """Whether a lower score is better, as for TER."""
        entry = METRICS.get(metric)
        return entry.lower_is_better if entry else metric in self.result.get("lower_is_better", ())

    @cached_property
    def segments(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of hypotheses by direction, with segment scores if the score node has them; empty if neither node has rows.

        Raises UserError if their file differs from its record.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        sources = [(self.scores, "segments.jsonl"), *([(self.translations, "hypotheses.jsonl")] if self.translations else [])]
        recorded = next(((record, name) for record, name in sources if name in record.files), None)
        # Rows end with \n alone: a sentence may hold other characters that end a line elsewhere.
        for line in filter(None, checked_content(*recorded).split("\n") if recorded else []):
            row = json.loads(line)
            found.setdefault(row["direction"], []).append(row)
        return found


@dataclass(frozen=True)
class System:
    """A column of the score tables."""

    name: str
    test: str
    variant: str = ""
    """The overrides that distinguish it from systems of the same name in other jobs."""
    baseline: str = ""
    """The system it is compared with: the nearest evaluated system that it was trained from. For outputs read from files: the
    recipe's target, else the first such system. Empty: none."""
    target: bool = False
    from_files: bool = False
    """Whether its hypotheses were read from files."""
    seeds: list[dict[str, ScoredCheckpoint]] = field(default_factory=list)
    """For each seed: direction to evaluation."""
    contaminated_by: list[str] = field(default_factory=list)
    """Sets in its training text that are, or overlap with, this test set."""

    @property
    def label(self) -> str:
        """The head of its column: its name, with a mark if it was trained on its test set."""
        return f"{self.qualified_name} {CONTAMINATED}" if self.contaminated_by else self.qualified_name

    @property
    def qualified_name(self) -> str:
        """Its name, and in parentheses its variant."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def comparison(self) -> str:
        """`from parallel` (trained from it) or `against cpo`; empty without a baseline."""
        return f"{'against' if self.from_files else 'from'} {self.baseline}" if self.baseline else ""

    @property
    def directions(self) -> list[str]:
        """Every direction that at least one seed was scored on."""
        return list(dict.fromkeys(direction for seed in self.seeds for direction in seed))

    @property
    def evaluations(self) -> list[ScoredCheckpoint]:
        """The evaluations of all seeds and directions."""
        return [evaluation for seed in self.seeds for evaluation in seed.values()]

    def values(self, direction: str, metric: str) -> list[float]:
        """A score for each seed that has one."""
        found = (seed[direction].score(direction, metric) for seed in self.seeds if direction in seed)
        return [value for value in found if value is not None]

    def first(self, direction: str) -> ScoredCheckpoint | None:
        """The direction's evaluation in the first seed that has it; None if no seed has."""
        return next((seed[direction] for seed in self.seeds if direction in seed), None)


def scored_checkpoints(job: ReportJob) -> Iterator[ScoredCheckpoint]:
    """Every score node with an artifact, in the order of the plan."""
    for step in job.plan.steps:
        record = job.records.get(step.node.name)
        if step.node.kind == "score" and record:
            yield _evaluation(job, step.node, record)


def _evaluation(job: ReportJob, score: Node, scores: Record) -> ScoredCheckpoint:
    hypotheses = job.plan[score.inputs["hypotheses"]].node
    test, translations = hypotheses.inputs.get("test", ""), job.records.get(hypotheses.name)
    record = job.records.get(test)
    test_set = describe_test_set(record) if record else test
    if hypotheses.kind == OUTPUTS_KIND:
        return ScoredCheckpoint(
            hypotheses.name.removesuffix(f".{OUTPUTS}"), None, test, test_set, scores, translations, from_files=True
        )
    checkpoint = job.plan[hypotheses.inputs["checkpoint"]].node
    return ScoredCheckpoint(checkpoint.name, checkpoint.group, test, test_set, scores, translations)


def systems(jobs: list[ReportJob]) -> list[System]:
    """The systems of all jobs: jobs that differ only in the seed are seeds of one system, and shared systems appear once."""
    found: dict[tuple[str, str, str], System] = {}
    for job, variant in zip(jobs, variants(jobs), strict=True):
        for (test, name), routed in _routed(job).items():
            from_files = next(iter(routed.values())).from_files
            baseline = _baseline_of_outputs(job, name) if from_files else _nearest_evaluated_parent(job, name)
            new = System(name, test, variant, baseline, _is_target(job, name), from_files)
            system = found.setdefault((test, name, variant), new)
            # Equal score keys are the same artifact, reached from two jobs, not another seed.
            keys = _keys(routed)
            if all(_keys(seed) != keys for seed in system.seeds):
                system.seeds.append(routed)
    return _merge_shared(list(found.values()))


def variants(jobs: list[ReportJob]) -> list[str]:
    """For each job the overrides, other than the seed, that not all jobs share."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
    return [" ".join(text for text in job.overrides if text not in shared and not text.startswith(SEED_OVERRIDE)) for job in jobs]


def _merge_shared(found: list[System]) -> list[System]:
    """Merge systems with the same scores, such as checkpoints upstream of a changed setting, into one per set of score keys.

    Its variant is the settings that the merged variants have in common.
    """
    by_keys: dict[tuple[Any, ...], list[System]] = {}
    for system in found:
        by_keys.setdefault((system.test, system.name, *(_keys(seed) for seed in system.seeds)), []).append(system)
    return [replace(group[0], variant=_common([system.variant for system in group])) for group in by_keys.values()]


def _common(names: list[str]) -> str:
    shared = set.intersection(*map(variant_settings, names))
    return " ".join(word for word in names[0].split(" ") if word in shared)


def variant_settings(variant: str) -> set[str]:
    """The overrides in a variant's name; those of a merged system are a subset of each merged variant's."""
    return set(variant.split())


def _keys(routed: dict[str, ScoredCheckpoint]) -> tuple[str, ...]:
    return tuple(sorted({evaluation.scores.key for evaluation in routed.values()}))


def _routed(job: ReportJob) -> dict[tuple[str, str], dict[str, ScoredCheckpoint]]:
    """(test set, system) to evaluation by direction; each direction of a group goes to that group's own adapter."""
    found: dict[tuple[str, str], dict[str, ScoredCheckpoint]] = {}
    for evaluation in scored_checkpoints(job):
        own = found.setdefault((evaluation.test_set, without_group(evaluation.checkpoint)), {})
        for direction in evaluation.result["directions"]:
            if evaluation.group is None or group_of(job, direction) == evaluation.group:
                own[direction] = evaluation
    return {key: routed for key, routed in found.items() if routed}


def one_line(text: str) -> str:
    """The text as it was scored: line breaks replaced by spaces, so that no tool splits a segment in two (B45)."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def without_group(node: str) -> str:
    """`g5.arpo` → `arpo`; the name of another system may hold dots, as in gpt-4.1."""
    return re.sub(r"^g[1-8]\.", "", node)


def group_of(job: ReportJob, direction: str) -> int | None:
    """The language group of a direction's first language that is not English; None if it has no group."""
    codes = [code for code in direction.split("-") if code != "en"]
    language = job.config.languages.get(codes[0]) if codes else None
    return language.group if language else None


def _is_target(job: ReportJob, name: str) -> bool:
    return any(step.node.target and without_group(step.node.name) == name for step in job.plan.steps)


def _nearest_evaluated_parent(job: ReportJob, name: str) -> str:
    """The nearest evaluated system upstream along `init`, over all groups' checkpoints of that name; empty if there is none."""
    scored = {evaluation.checkpoint for evaluation in scored_checkpoints(job)}
    found = (_nearest_scored(job, checkpoint, scored) for checkpoint in scored if without_group(checkpoint) == name)
    return min((place for place in found if place), default=(0, ""))[1]


def _nearest_scored(job: ReportJob, checkpoint: str, scored: set[str]) -> tuple[int, str] | None:
    """Number of steps along `init` to the nearest scored checkpoint, and its name without the group; None if none is scored."""
    node, steps = job.plan[checkpoint].node, 0
    while source := node.inputs.get("init", ""):
        steps += 1
        if source in scored:
            return steps, without_group(source)
        node = job.plan[source].node
    return None


def _baseline_of_outputs(job: ReportJob, name: str) -> str:
    """The baseline of outputs read from files: the target if it is scored, else the first such system; empty for that one."""
    found = list(scored_checkpoints(job))
    targets = {without_group(step.node.name) for step in job.plan.steps if step.node.target}
    ours = [without_group(evaluation.checkpoint) for evaluation in found if not evaluation.from_files]
    first = [each for each in ours if each in targets] or [evaluation.checkpoint for evaluation in found if evaluation.from_files]
    return first[0] if first[0] != name else ""


def on_all_groups(job: ReportJob) -> Iterator[tuple[ScoredCheckpoint, int]]:
    """(evaluation, group) for each group adapter and each language group whose directions it translated, its own included."""
    for evaluation in scored_checkpoints(job):
        if evaluation.group is not None:
            groups = {group_of(job, direction) for direction in evaluation.result["directions"]}
            yield from ((evaluation, group) for group in sorted(group for group in groups if group is not None))
