"""Translations side by side: each direction's worst segments, with what differs from the reference marked."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.report.systems import System
from alma_pipeline.schema.metrics import MAIN

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages written without spaces between words: they are compared by character."""
WORD = re.compile(r"\w+|\s+|[^\w\s]")
MAX_SAMPLES = 60
"""Segments on a page, shared among the directions."""
MIN_PER_DIRECTION, MAX_PER_DIRECTION = 1, 5
"""For one direction."""


@dataclass(frozen=True)
class DiffPart:
    """A stretch of a hypothesis: `same` as the reference, `extra` in it, or `missing` from it."""

    text: str
    mark: str


@dataclass(frozen=True)
class SampleOutput:
    """One system's translation, in parts that the reference has or lacks."""

    system: str
    score: float
    """Of the sentence, by the main metric."""
    parts: list[DiffPart]


@dataclass(frozen=True)
class SampleSegment:
    """A sentence as all systems translated it."""

    direction: str
    source: str
    reference: str
    outputs: list[SampleOutput]


def worst_samples(systems: list[System], test: str) -> list[SampleSegment]:
    """Worst first by the mean over the targets; of every direction that a target translates. Without targets, by all."""
    shown = _chosen([system for system in systems if system.test == test])
    directions = list(dict.fromkeys(direction for system in _judged(shown) for direction in system.directions))
    each = max(MIN_PER_DIRECTION, min(MAX_PER_DIRECTION, MAX_SAMPLES // max(1, len(directions))))
    return [sample for direction in directions for sample in _worst(shown, direction, each)]


def _chosen(systems: list[System]) -> list[System]:
    """The targets, what each was trained from, and other systems whose outputs were given."""
    parents = {system.parent for system in systems if system.target}
    return [system for system in systems if system.target or system.given or system.name in parents]


def _judged(systems: list[System]) -> list[System]:
    return [system for system in systems if system.target] or systems


def _worst(systems: list[System], direction: str, many: int) -> Iterator[SampleSegment]:
    having = [(system, rows) for system in systems if (rows := _rows(system, direction))]
    judged = _judged([system for system, _ in having])
    targets = [rows for system, rows in having if system in judged]
    if not targets:
        return
    targets = [rows for rows in targets if len(rows) == len(targets[0])]
    judges = [_scores(rows) for rows in targets]
    order = sorted(range(len(targets[0])), key=lambda place: sum(scores[place] for scores in judges))
    for place in order[:many]:
        row = targets[0][place]
        outputs = [
            SampleOutput(system.label, _score(rows[place]), diff_parts(rows[place]["hypothesis"], row["reference"], direction))
            for system, rows in having
            if place < len(rows) and rows[place]["source"] == row["source"]
        ]
        yield SampleSegment(direction, row["source"], row["reference"], outputs)


def _rows(system: System, direction: str) -> list[dict[str, str]]:
    evaluation = system.first(direction)
    return evaluation.segments.get(direction, []) if evaluation else []


def _scores(rows: list[dict[str, str]]) -> list[float]:
    return [_score(row) for row in rows]


def _score(row: dict[str, str]) -> float:
    from alma_pipeline.ml.scoring.sacrebleu_metrics import metric

    return float(metric(MAIN, "13a").sentence_score(row["hypothesis"], [row["reference"]]).score)


def diff_parts(hypothesis: str, reference: str, direction: str) -> list[DiffPart]:
    """The hypothesis in stretches, and between them what the reference has in their place."""
    ours, theirs = (_words(text, direction.rpartition("-")[2]) for text in (hypothesis, reference))
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(DiffPart("".join(ours[k:m]), "same"))
            continue
        parts += [DiffPart("".join(theirs[i:j]), "missing")] if i < j else []
        parts += [DiffPart("".join(ours[k:m]), "extra")] if k < m else []
    return parts


def _words(text: str, language: str) -> list[str]:
    return list(text) if language in UNSPACED_LANGUAGES else WORD.findall(text)
