"""Training curves: series of numbers for charts, read from the metrics.jsonl of artifacts. Draws nothing."""

import json
import math
from dataclasses import dataclass

from alma_pipeline.errors import UserError
from alma_pipeline.plan.node import is_training
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.store.damage import checked_content
from alma_pipeline.store.record import Record

LOG = "metrics.jsonl"
MAX_POINTS = 240
"""Points of a drawn line; more would not be visible."""
MEASURES = {
    "loss": "loss",
    "rewards/margins": "margin of rewards, chosen − rejected",
    "rewards/accuracies": "share of pairs ranked correctly",
}
"""Metrics that get a chart, with the chart's label."""


@dataclass(frozen=True)
class Series:
    """A measure over steps."""

    steps: list[int]
    values: list[float]

    @property
    def ends(self) -> str:
        """`7.49 → 2.43`."""
        return f"{self.values[0]:.3g} → {self.values[-1]:.3g}"


@dataclass(frozen=True)
class Curve:
    """One metric of one node, on training batches and on the dev set, with a series per seed."""

    node: str
    measure: str
    label: str
    train: list[Series]
    dev: list[Series]

    @property
    def caption(self) -> str:
        """The chart in words, for screen readers."""
        parts = [f"{name} {series[0].ends}" for name, series in (("training", self.train), ("dev set", self.dev)) if series]
        return f"{self.node}, {self.label}: {', '.join(parts)}"


def curves(jobs: list[ReportJob]) -> list[Curve]:
    """Every trained node's loss, and for preference optimisation its margins and accuracies."""
    found: dict[tuple[str, str], Curve] = {}
    seen: set[str] = set()
    for job in jobs:
        for step in job.plan.steps:
            record = job.records.get(step.node.name)
            if not record or not is_training(step.node) or record.key in seen:
                continue
            # Jobs of a sweep share artifacts; each is drawn once, as one seed.
            seen.add(record.key)
            lines = _lines(record)
            for measure, label in MEASURES.items():
                train, dev = (_series(lines, f"{part}/{measure}") for part in ("train", "dev"))
                # Training batches are noisy and smoothed; dev values are few and drawn as they are.
                if train or dev:
                    curve = found.setdefault((step.node.name, measure), Curve(step.node.name, measure, label, [], []))
                    curve.train.extend([smooth(train)] if train else [])
                    curve.dev.extend([dev] if dev else [])
    return list(found.values())


def lost_curves(jobs: list[ReportJob]) -> list[str]:
    """A sentence for each trained node whose log is missing or differs from its record, so that it has no curve."""
    records = [job.records[step.node.name] for job in jobs for step in job.plan.steps if step.node.name in job.records]
    return list(dict.fromkeys(f"no training curve of {record.name}: {text}" for record in records if (text := _lost(record))))


def _lost(record: Record) -> str:
    try:
        _log(record)
    except UserError as error:
        return str(error)
    return ""


def _log(record: Record) -> str:
    """The metrics of a node's attempt; empty for an adopted checkpoint. Raises UserError if the file is not as recorded."""
    return checked_content(record, LOG) if LOG in record.files else ""


def _lines(record: Record) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of each line; none of a damaged log."""
    if _lost(record):
        return []
    lines = [json.loads(text) for text in _log(record).splitlines()]
    return [(line["step"], line["metrics"]) for line in lines]


def _series(lines: list[tuple[int, dict[str, float]]], name: str) -> Series | None:
    """One metric by step. A resumed node logs some steps twice; the later value wins."""
    points = {
        step: metrics[name]
        for step, metrics in lines
        if isinstance(metrics.get(name), (int, float)) and math.isfinite(metrics[name])
    }
    return Series(sorted(points), [points[step] for step in sorted(points)]) if points else None


def smooth(series: Series) -> Series:
    """Average into at most `MAX_POINTS` bins of consecutive steps, then take a moving mean over a twentieth of the bins."""
    bins = _chunks(series, math.ceil(len(series.steps) / MAX_POINTS))
    reach = max(1, len(bins) // 40)
    values = [_mean([value for _, value in bins[max(0, i - reach) : i + reach + 1]]) for i in range(len(bins))]
    return Series([step for step, _ in bins], values)


def _chunks(series: Series, size: int) -> list[tuple[int, float]]:
    places = range(0, len(series.steps), size)
    return [(series.steps[min(i + size, len(series.steps)) - 1], _mean(series.values[i : i + size])) for i in places]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
