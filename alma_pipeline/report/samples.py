"""Translations side by side: each direction's worst segments, with their differences from the reference marked."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.report.systems import System
from alma_pipeline.schema.metrics import MAIN

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages written without spaces between words; their texts are compared by character."""
WORD = re.compile(r"\w+|\s+|[^\w\s]")
MAX_SAMPLES = 60
"""Segments on a page, divided among the directions."""
MIN_PER_DIRECTION, MAX_PER_DIRECTION = 1, 5
"""Segments of one direction."""


@dataclass(frozen=True)
class DiffPart:
    """A stretch of text, marked `same`, `extra` (only in the hypothesis) or `missing` (only in the reference)."""

    text: str
    mark: str


@dataclass(frozen=True)
class SampleOutput:
    """One system's translation, as a diff against the reference."""

    system: str
    score: float
    """The sentence's score by the main metric."""
    parts: list[DiffPart]


@dataclass(frozen=True)
class SampleSegment:
    """A sentence and its translations by several systems."""

    direction: str
    source: str
    reference: str
    outputs: list[SampleOutput]


def worst_samples(systems: list[System], test: str) -> list[SampleSegment]:
    """The worst segments of every direction that a target translates, by mean score over the targets, worst first.

    Without targets all systems count.
    """
    shown = _shown([system for system in systems if system.test == test])
    directions = list(dict.fromkeys(direction for system in _ranked_by(shown) for direction in system.directions))
    each = max(MIN_PER_DIRECTION, min(MAX_PER_DIRECTION, MAX_SAMPLES // max(1, len(directions))))
    return [sample for direction in directions for sample in _worst(shown, direction, each)]


def _shown(systems: list[System]) -> list[System]:
    """The targets, the system each was trained from, and systems whose outputs are files."""
    parents = {system.baseline for system in systems if system.target}
    return [system for system in systems if system.target or system.from_files or system.name in parents]


def _ranked_by(systems: list[System]) -> list[System]:
    """The systems whose scores decide which segments are worst."""
    return [system for system in systems if system.target] or systems


def _worst(systems: list[System], direction: str, count: int) -> Iterator[SampleSegment]:
    having = [(system, rows) for system in systems if (rows := _rows(system, direction))]
    ranked_by = _ranked_by([system for system, _ in having])
    targets = [rows for system, rows in having if system in ranked_by]
    if not targets:
        return
    # Only targets with the same segments can be averaged by position.
    targets = [rows for rows in targets if len(rows) == len(targets[0])]
    by_target = [[_score(row) for row in rows] for rows in targets]
    order = sorted(range(len(targets[0])), key=lambda place: sum(scores[place] for scores in by_target))
    for place in order[:count]:
        row = targets[0][place]
        # Other systems may have translated another part of the test set: show them where the source matches.
        outputs = [
            SampleOutput(system.label, _score(rows[place]), diff_parts(rows[place]["hypothesis"], row["reference"], direction))
            for system, rows in having
            if place < len(rows) and rows[place]["source"] == row["source"]
        ]
        yield SampleSegment(direction, row["source"], row["reference"], outputs)


def _rows(system: System, direction: str) -> list[dict[str, str]]:
    """A direction's segments in the first seed that has it."""
    evaluation = system.first(direction)
    return evaluation.segments.get(direction, []) if evaluation else []


def _score(row: dict[str, str]) -> float:
    from alma_pipeline.ml.scoring.sacrebleu_metrics import metric

    return float(metric(MAIN, "13a").sentence_score(row["hypothesis"], [row["reference"]]).score)


def diff_parts(hypothesis: str, reference: str, direction: str) -> list[DiffPart]:
    """A word diff of hypothesis and reference; by character for languages without spaces."""
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
