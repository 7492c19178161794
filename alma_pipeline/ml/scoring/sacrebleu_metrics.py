"""The metrics of `schema.metrics`, computed by sacrebleu: corpus score, segment scores, signature.

Strings in, numbers out, on sacrebleu's scale of 0 to 100 (TER can exceed it). What sacrebleu counts in a segment is
counted once and used for the corpus and for the segments alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sacrebleu
from sacrebleu.metrics.base import Metric
from sacrebleu.utils import SACREBLEU_DIR

from alma_pipeline.errors import UserError
from alma_pipeline.schema.metrics import METRICS

SEGMENT_BATCH = 200
"""Segments whose n-grams are in memory together; those of a whole test set take a gigabyte, and time to be walked over."""


@dataclass(frozen=True)
class MetricResult:
    """One metric of one direction."""

    score: float
    signature: str
    """All that determines the number; scores of different signatures are not comparable (B49)."""
    segments: list[float] | None = None
    """By hypothesis; None for a metric that has no sensible one."""


def metric(name: str, tokenizer: str) -> Metric:
    """sacrebleu's metric of a name in `METRICS`. `tokenizer`: BLEU's for the target language.

    Raises ValueError for another name and UserError where what the metric needs is missing.
    """
    if name not in METRICS:
        raise ValueError(f"metric {name!r}: expected one of {', '.join(METRICS)}")
    entry = METRICS[name]
    try:
        return getattr(sacrebleu, entry.type)(**entry.options(tokenizer))
    except (ImportError, OSError, RuntimeError, SystemExit) as error:  # sacrebleu exits where certificates fail
        if not entry.needs:
            raise
        raise UserError(
            f"evaluation.metrics: {name} needs {entry.needs.format(models=f'{SACREBLEU_DIR}/models')}. That failed: "
            f"{' '.join(str(error).split()) or type(error).__name__}. Install and download it, or take {name} out of "
            "evaluation.metrics."
        ) from error


def measure(name: str, tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> MetricResult:
    """A metric of hypotheses against one reference each. Raises ValueError where there is nothing to score."""
    if not hypotheses:
        raise ValueError("found no translations to score; expected at least one")
    found = metric(name, tokenizer)
    statistics = [row for part in _portions(len(hypotheses)) for row in _statistics(found, hypotheses[part], references[part])]
    segments = [float(found._compute_score_from_stats(row).score) for row in statistics] if METRICS[name].segments else None
    return MetricResult(float(found._aggregate_and_compute(statistics).score), str(found.get_signature()), segments)


def _portions(count: int) -> list[slice]:
    return [slice(start, start + SEGMENT_BATCH) for start in range(0, count, SEGMENT_BATCH)]


def _statistics(found: Metric, hypotheses: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """What sacrebleu counts in each of these segments."""
    rows: list[list[float]] = found._extract_corpus_statistics(hypotheses, [references])
    return rows
