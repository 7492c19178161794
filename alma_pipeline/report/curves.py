"""What training measured over its steps, from the artifacts' metrics.jsonl: series of numbers for charts."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.plan.node import is_training
from alma_pipeline.report.jobs import ReportJob

MAX_POINTS = 240
"""Of a line on a page: more are not seen."""
MEASURES = {
    "loss": "loss",
    "rewards/margins": "margin of rewards, chosen − rejected",
    "rewards/accuracies": "share of pairs ranked right",
}
"""What is drawn of a node, where it measures it."""


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
    """One measure of one node: on the training batches and on the dev set, for each seed."""

    node: str
    measure: str
    label: str
    train: list[Series]
    dev: list[Series]

    @property
    def told(self) -> str:
        """In words, for who does not see the chart."""
        parts = [f"{name} {series[0].ends}" for name, series in (("training", self.train), ("dev set", self.dev)) if series]
        return f"{self.node}, {self.label}: {', '.join(parts)}"


def curves(jobs: list[ReportJob]) -> list[Curve]:
    """Of every trained node: its loss, and for preference optimisation the margins and accuracies."""
    found: dict[tuple[str, str], Curve] = {}
    seen: set[str] = set()
    for job in jobs:
        for step in job.plan.steps:
            record = job.records.get(step.node.name)
            if not record or not is_training(step.node) or record.key in seen:
                continue
            seen.add(record.key)
            lines = list(_lines(record.path / "metrics.jsonl"))
            for measure, label in MEASURES.items():
                train, dev = (_series(lines, f"{part}/{measure}") for part in ("train", "dev"))
                if train or dev:
                    curve = found.setdefault((step.node.name, measure), Curve(step.node.name, measure, label, [], []))
                    curve.train.extend([smooth(train)] if train else [])
                    curve.dev.extend([dev] if dev else [])
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics); an adopted checkpoint has no such file."""
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            for text in file:
                line = json.loads(text)
                yield line["step"], line["metrics"]


def _series(lines: list[tuple[int, dict[str, float]]], name: str) -> Series | None:
    """A resumed node writes some steps twice: the later word holds."""
    points = {
        step: metrics[name]
        for step, metrics in lines
        if isinstance(metrics.get(name), (int, float)) and math.isfinite(metrics[name])
    }
    return Series(sorted(points), [points[step] for step in sorted(points)]) if points else None


def smooth(series: Series) -> Series:
    """Means over as many steps as it takes to leave `MAX_POINTS`, then a moving mean over a twentieth of those."""
    bins = _chunks(series, math.ceil(len(series.steps) / MAX_POINTS))
    reach = max(1, len(bins) // 40)
    values = [_mean([value for _, value in bins[max(0, i - reach) : i + reach + 1]]) for i in range(len(bins))]
    return Series([step for step, _ in bins], values)


def _chunks(series: Series, size: int) -> list[tuple[int, float]]:
    places = range(0, len(series.steps), size)
    return [(series.steps[min(i + size, len(series.steps)) - 1], _mean(series.values[i : i + size])) for i in places]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
