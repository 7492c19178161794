"""sacrebleu's metrics under the names they are reported by: corpus score, segment scores, signature.

Strings in, numbers out, on sacrebleu's scale of 0 to 100 (TER can exceed it). What sacrebleu counts in a segment is
counted once and used for the corpus and for the segments alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

from alma_pipeline.errors import UserError

NAMES = ("chrf++", "bleu", "ter", "spbleu")
LOWER_IS_BETTER = frozenset({"ter"})
WORD_ORDER = 2
"""Of chrF++ (Popović 2017)."""
UNSPACED = frozenset({"zh", "ja-mecab"})
"""BLEU tokenizers of languages whose whole sentence would be one word to TER: it takes their characters apart."""
AT_ONCE = 200
"""Segments whose n-grams are in memory together; those of a whole test set take a gigabyte, and time to be walked over."""
BY_SEGMENT = frozenset({"chrf++", "ter"})
"""BLEU of one sentence is zero where four words in a row are not found, and says little; these say something."""


@dataclass(frozen=True)
class Measured:
    """One metric of one direction."""

    score: float
    signature: str
    """All that determines the number; scores of different signatures are not comparable (B49)."""
    segments: list[float] | None = None
    """By hypothesis; None for a metric that has no sensible one."""


def metric(name: str, tokenizer: str) -> Metric:
    """sacrebleu's metric of a name in `NAMES`. `tokenizer`: that of the target language, for BLEU.

    Raises UserError where spBLEU's tokenizer cannot be had.
    """
    if name == "chrf++":
        return CHRF(word_order=WORD_ORDER)
    if name == "ter":
        return TER(normalized=tokenizer in UNSPACED, asian_support=tokenizer in UNSPACED)
    if name == "spbleu":
        return _spbleu()
    if name == "bleu":
        return BLEU(tokenize=tokenizer)
    raise ValueError(f"metric {name!r}: expected one of {', '.join(NAMES)}")


def measure(name: str, tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> Measured:
    """A metric of hypotheses against one reference each. Raises ValueError where there is nothing to score."""
    if not hypotheses:
        raise ValueError("found no translations to score; expected at least one")
    found = metric(name, tokenizer)
    statistics = [row for part in _portions(len(hypotheses)) for row in _statistics(found, hypotheses[part], references[part])]
    segments = [float(found._compute_score_from_stats(row).score) for row in statistics] if name in BY_SEGMENT else None
    return Measured(float(found._aggregate_and_compute(statistics).score), str(found.get_signature()), segments)


def _portions(count: int) -> list[slice]:
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]


def _statistics(found: Metric, hypotheses: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """What sacrebleu counts in each of these segments."""
    rows: list[list[float]] = found._extract_corpus_statistics(hypotheses, [references])
    return rows


def _spbleu() -> Metric:
    """BLEU over the pieces of FLORES-200's SentencePiece model, which sacrebleu downloads once (NLLB, arXiv 2207.04672)."""
    from sacrebleu.utils import SACREBLEU_DIR

    try:
        return BLEU(tokenize="flores200")
    except (ImportError, OSError, RuntimeError, SystemExit) as error:  # sacrebleu exits where certificates fail
        raise UserError(
            "evaluation.metrics: spbleu needs the package sentencepiece and FLORES-200's SentencePiece model, which sacrebleu "
            f"downloads at first use; that failed here: {' '.join(str(error).split()) or type(error).__name__}. Install "
            f"sentencepiece and put the model at {SACREBLEU_DIR}/models/flores200sacrebleuspm (its address: "
            "https://tinyurl.com/flores200sacrebleuspm), or take spbleu out of evaluation.metrics."
        ) from error
