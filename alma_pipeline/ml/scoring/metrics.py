"""Scores of translations by direction: every metric with its signature, and the guards that unmask a good score.

Strings in, numbers out. Metrics are sacrebleu's (`surface`) and, where given, a neural one's segment scores (`neural`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sacrebleu.metrics import CHRF

from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.scoring import guards, sacrebleu_metrics
from alma_pipeline.ml.scoring.guards import GuardFlags
from alma_pipeline.ml.scoring.sacrebleu_metrics import MetricResult

GUARDS = ("exact", "empty", "copy", "repetition", "truncated", "off_target")


@dataclass(frozen=True)
class ScorableTranslation:
    """One sentence, its reference and what a model made of it."""

    direction: str
    source: str
    reference: str
    hypothesis: str
    truncated: bool | None = None
    """Whether the limit of new tokens ended it; None: not known."""


@dataclass(frozen=True)
class DirectionScores:
    """Of one direction's translations; rates are percentages, None where nothing can tell."""

    metrics: dict[str, MetricResult]
    flags: list[GuardFlags]
    """By hypothesis."""
    length_ratio: float | None
    """Characters of all hypotheses over those of all references; None: the references are empty."""
    newlines: int
    """Hypotheses in which line breaks became spaces, so that no tool takes one for two (B45)."""

    @property
    def sentences(self) -> int:
        """How many hypotheses were scored."""
        return len(self.flags)

    @property
    def signatures(self) -> dict[str, str]:
        """sacrebleu's signature by metric."""
        return {name: measured.signature for name, measured in self.metrics.items()}

    def plain(self) -> dict[str, float | int | None]:
        """The numbers, under the names they are reported by: metrics, then guards."""
        scores: dict[str, float | int | None] = {name: measured.score for name, measured in self.metrics.items()}
        rates = {name: guards.percentage(getattr(item, name) for item in self.flags) for name in GUARDS}
        return scores | rates | {"length_ratio": self.length_ratio, "sentences": self.sentences}

    def languages(self) -> dict[str, int]:
        """How many hypotheses are written in which language, most first; `?`: cannot be told."""
        return dict(Counter(item.language or "?" for item in self.flags).most_common())

    def segments(self) -> list[dict[str, Any]]:
        """By hypothesis: its scores by metric, and its flags."""
        known = {name: measured.segments for name, measured in self.metrics.items() if measured.segments is not None}
        return [
            {"scores": {name: values[place] for name, values in known.items()}, "flags": asdict(item)}
            for place, item in enumerate(self.flags)
        ]


def score(
    translations: Sequence[ScorableTranslation], tokenizer: str, names: Sequence[str] = ("chrf++", "bleu")
) -> DirectionScores:
    """Scores of one direction. `tokenizer`: sacrebleu's tokenizer for the target language, used by BLEU (B49).

    `names`: sacrebleu's metrics, of `schema.metrics.METRICS`. Raises ValueError where there is nothing to score, and
    UserError where a metric needs what is missing (spBLEU).
    """
    lines = [one_line(item.hypothesis) for item in translations]
    hypotheses = [line for line, _ in lines]
    references = [item.reference for item in translations]
    return DirectionScores(
        metrics={name: sacrebleu_metrics.measure(name, tokenizer, hypotheses, references) for name in names},
        flags=[
            guards.guard_flags(item.source, item.reference, hypothesis, item.direction.split("-")[1], item.truncated)
            for hypothesis, item in zip(hypotheses, translations, strict=True)
        ],
        length_ratio=guards.length_ratio(hypotheses, references),
        newlines=sum(broken for _, broken in lines),
    )


def with_metric(scores: DirectionScores, name: str, measured: MetricResult) -> DirectionScores:
    """The same with one metric more."""
    return replace(scores, metrics=scores.metrics | {name: measured})


def averages(scores: Mapping[str, DirectionScores]) -> dict[str, dict[str, float | int | None]]:
    """Means over the directions out of English, into it, and all; `sentences` is a sum.

    Scores of different signatures are not on one scale: their mean is None (B49). A part without directions is left out.
    """
    parts = {
        "en-xx": [value for direction, value in scores.items() if direction.startswith("en-")],
        "xx-en": [value for direction, value in scores.items() if direction.endswith("-en")],
        "all": list(scores.values()),
    }
    return {name: _average(values) for name, values in parts.items() if values}


def signatures(scores: Mapping[str, DirectionScores]) -> dict[str, dict[str, str]]:
    """Metric to direction to signature."""
    found: dict[str, dict[str, str]] = {}
    for direction, value in scores.items():
        for name, signature in value.signatures.items():
            found.setdefault(name, {})[direction] = signature
    return found


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """chrF of one sentence (character 6-grams, beta 2), 100 where the two are equal but for white space."""
    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def _average(scores: Sequence[DirectionScores]) -> dict[str, float | int | None]:
    rows = [item.plain() for item in scores]
    several = {name for name, count in Counter(name for name, _ in _pairs(scores)).items() if count > 1}
    result: dict[str, float | int | None] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        result[name] = sum(values) / len(values) if values and name not in several else None
    result["sentences"] = sum(item.sentences for item in scores)
    return result


def _pairs(scores: Sequence[DirectionScores]) -> set[tuple[str, str]]:
    """Every metric with every signature it has here."""
    return {pair for item in scores for pair in item.signatures.items()}
