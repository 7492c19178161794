"""Segment scores by source length: shows systems that do well on short sentences only."""

import statistics
from dataclasses import dataclass
from itertools import pairwise

from alma_pipeline.report.systems import System

LENGTH_BINS = 4
MIN_SEGMENTS = 8
"""Directions with fewer segments are left out (our choice)."""


@dataclass(frozen=True)
class LengthTable:
    """One metric on one test set: each system's mean segment score by length quarter, shortest sources first."""

    test: str
    metric: str
    signature: str
    """Scores with different signatures are not averaged (B49)."""
    rows: list[tuple[str, list[float]]]


def scores_by_length(systems: list[System]) -> list[LengthTable]:
    """One table for each metric with segment scores.

    Each direction's sentences are split into quarters of equal size by source length in characters, and the quarters' means are
    averaged over directions; lengths in different scripts are thus never compared.
    """
    found: dict[tuple[str, str, str], list[tuple[str, list[float]]]] = {}
    for system in systems:
        for (metric, signature), values in _by_metric(system).items():
            row = [statistics.fmean(quarter) for quarter in zip(*values, strict=True)]
            found.setdefault((system.test, metric, signature), []).append((system.label, row))
    return [LengthTable(*place, rows) for place, rows in found.items()]


def _by_metric(system: System) -> dict[tuple[str, str], list[list[float]]]:
    """(metric, signature) to the quarter means of every direction, from the first seed."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for direction in system.directions:
        evaluation = system.first(direction)
        rows = evaluation.segments.get(direction, []) if evaluation else []
        if evaluation is None or len(rows) < MIN_SEGMENTS:
            continue
        # Equal-sized quarters by rank: lengths are skewed, so fixed limits would leave some bins almost empty.
        ordered = sorted(rows, key=lambda row: len(row["source"]))
        edges = [len(ordered) * part // LENGTH_BINS for part in range(LENGTH_BINS + 1)]
        for metric in ordered[0].get("scores", {}):
            means = [statistics.fmean(row["scores"][metric] for row in ordered[start:end]) for start, end in pairwise(edges)]
            found.setdefault((metric, evaluation.signature(direction, metric)), []).append(means)
    return found
