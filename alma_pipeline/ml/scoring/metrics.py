"""Scores of one direction's translations, and their averages over directions: metrics with their signatures, and guards.

sacrebleu's metrics are computed here; neural ones are computed by `comet` and added with `with_metric`.
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
    """A source sentence, its reference and a hypothesis."""

    direction: str
    source: str
    reference: str
    hypothesis: str
    truncated: bool | None = None
    """Whether the limit of new tokens ended the hypothesis; None: unknown."""


@dataclass(frozen=True)
class DirectionScores:
    """The scores of one direction."""

    metrics: dict[str, MetricResult]
    flags: list[GuardFlags]
    """One per hypothesis."""
    length_ratio: float | None
    """Characters in all hypotheses divided by characters in all references; None if the references are empty."""
    newlines: int
    """Number of hypotheses in which line breaks were replaced by spaces, so that no tool splits one in two (B45)."""

    @property
    def sentences(self) -> int:
        """Number of hypotheses."""
        return len(self.flags)

    @property
    def signatures(self) -> dict[str, str]:
        """Signature by metric."""
        return {name: result.signature for name, result in self.metrics.items()}

    def plain(self) -> dict[str, float | int | None]:
        """Numbers by name: metrics, then guards in percent (None: unknown for all hypotheses), length_ratio, sentences."""
        scores: dict[str, float | int | None] = {name: result.score for name, result in self.metrics.items()}
        rates = {name: guards.percentage(getattr(item, name) for item in self.flags) for name in GUARDS}
        return scores | rates | {"length_ratio": self.length_ratio, "sentences": self.sentences}

    def languages(self) -> dict[str, int]:
        """Number of hypotheses by identified language, largest first; `?`: not identified."""
        return dict(Counter(item.language or "?" for item in self.flags).most_common())

    def segments(self) -> list[dict[str, Any]]:
        """For each hypothesis its scores by metric and its flags."""
        known = {name: result.segments for name, result in self.metrics.items() if result.segments is not None}
        return [
            {"scores": {name: values[place] for name, values in known.items()}, "flags": asdict(item)}
            for place, item in enumerate(self.flags)
        ]


def score(
    translations: Sequence[ScorableTranslation], tokenizer: str, names: Sequence[str] = ("chrf++", "bleu")
) -> DirectionScores:
    """Score the translations of one direction.

    `tokenizer`: sacrebleu's BLEU tokenizer for the target language (B49). `names`: metrics in `schema.metrics.METRICS`. Raises
    ValueError for an empty list, and UserError if something a metric needs is missing (spBLEU).
    """
    # Line breaks are removed first, so that metrics and guards see the same text as any line-based tool (B45).
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


def with_metric(scores: DirectionScores, name: str, result: MetricResult) -> DirectionScores:
    """A copy of `scores` with one more metric."""
    return replace(scores, metrics=scores.metrics | {name: result})


def averages(scores: Mapping[str, DirectionScores]) -> dict[str, dict[str, float | int | None]]:
    """Means over the directions out of English, into English, and all; `sentences` is the sum.

    The mean of scores with different signatures is None (B49), and so is that of a metric which a direction lacks.
    Parts without directions are left out.
    """
    parts = {
        "en-xx": [value for direction, value in scores.items() if direction.startswith("en-")],
        "xx-en": [value for direction, value in scores.items() if direction.endswith("-en")],
        "all": list(scores.values()),
    }
    return {name: _average(values) for name, values in parts.items() if values}


def signatures(scores: Mapping[str, DirectionScores]) -> dict[str, dict[str, str]]:
    """Metric → direction → signature."""
    found: dict[str, dict[str, str]] = {}
    for direction, value in scores.items():
        for name, signature in value.signatures.items():
            found.setdefault(name, {})[direction] = signature
    return found


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """sacrebleu's chrF2 of one sentence (character 6-grams, beta 2); 100 if the texts differ in white space only."""
    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def _average(scores: Sequence[DirectionScores]) -> dict[str, float | int | None]:
    # A metric with several signatures, such as BLEU with two tokenizers, gets no mean.
    rows = [item.plain() for item in scores]
    several = {name for name, count in Counter(name for name, _ in _pairs(scores)).items() if count > 1}
    # Nor does one that some of the directions lack: it would be a mean over fewer directions than the others.
    several |= {name for item in scores for name in item.metrics if any(name not in other.metrics for other in scores)}
    result: dict[str, float | int | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [value for row in rows if (value := row.get(name)) is not None]
        result[name] = sum(values) / len(values) if values and name not in several else None
    result["sentences"] = sum(item.sentences for item in scores)
    return result


def _pairs(scores: Sequence[DirectionScores]) -> set[tuple[str, str]]:
    """Every (metric, signature) pair in these scores."""
    return {pair for item in scores for pair in item.signatures.items()}
