"""Computes the metrics of `schema.metrics` with sacrebleu: corpus score, segment scores and signature.

Scores are on sacrebleu's scale of 0 to 100 (TER can exceed it). Statistics are counted once per segment and used for both the
corpus score and the segment scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sacrebleu
from sacrebleu.metrics.base import Metric
from sacrebleu.utils import SACREBLEU_DIR

from alma_pipeline.errors import UserError
from alma_pipeline.schema.metrics import METRICS

SEGMENT_BATCH = 200
"""Segments whose n-grams are in memory at once; a whole test set would take a gigabyte and be slower to iterate."""


@dataclass(frozen=True)
class MetricResult:
    """One metric's scores for one direction."""

    score: float
    """Of the corpus."""
    signature: str
    """Everything that determines the score; scores with different signatures are not comparable (B49)."""
    segments: list[float] | None = None
    """One score per hypothesis; None if the metric is not meaningful for a segment."""


def metric(name: str, tokenizer: str) -> Metric:
    """The sacrebleu metric object for a name in `METRICS`. `tokenizer`: BLEU's tokenizer for the target language.

    Raises ValueError for an unknown name, and UserError if a package or file that the metric needs is missing.
    """
    if name not in METRICS:
        raise ValueError(f"metric {name!r}: expected one of {', '.join(METRICS)}")
    entry = METRICS[name]
    try:
        return getattr(sacrebleu, entry.type)(**entry.options(tokenizer))
    except (ImportError, OSError, RuntimeError, SystemExit) as error:  # sacrebleu exits if a download's certificate fails
        if not entry.needs:
            raise
        raise UserError(
            f"evaluation.metrics: {name} needs {entry.needs.format(models=f'{SACREBLEU_DIR}/models')}. That failed: "
            f"{' '.join(str(error).split()) or type(error).__name__}. Install and download it, or remove {name} from "
            "evaluation.metrics."
        ) from error


def measure(name: str, tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> MetricResult:
    """Score hypotheses against one reference each. Raises ValueError for an empty list, and as `metric` does."""
    if not hypotheses:
        raise ValueError("found no translations to score; expected at least one")
    found = metric(name, tokenizer)
    # sacrebleu's public API gives the corpus score only; its statistics give both without counting n-grams twice.
    statistics = [row for part in _portions(len(hypotheses)) for row in _statistics(found, hypotheses[part], references[part])]
    segments = [float(found._compute_score_from_stats(row).score) for row in statistics] if METRICS[name].segments else None
    return MetricResult(float(found._aggregate_and_compute(statistics).score), str(found.get_signature()), segments)


def _portions(count: int) -> list[slice]:
    return [slice(start, start + SEGMENT_BATCH) for start in range(0, count, SEGMENT_BATCH)]


def _statistics(found: Metric, hypotheses: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """sacrebleu's statistics of each segment."""
    rows: list[list[float]] = found._extract_corpus_statistics(hypotheses, [references])
    return rows
