"""Whether one system's score differs from another's beyond chance, by sacrebleu's own paired tests.

Answers are kept in the store by what they were computed from: a page that is made again need not resample.
"""

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.files import write_json
from alma_pipeline.schema.metrics import tokenizer

BOOTSTRAP, RANDOMISATION = "bootstrap", "randomisation"
SAMPLES = {BOOTSTRAP: 1000, RANDOMISATION: 10000}
"""Resamples (Koehn 2004) or trials (Riezler and Maxwell 2005): sacrebleu's defaults. The seed is sacrebleu's own, 12345."""
LEVEL = 0.05
ACROSS_SEEDS, SACREBLEU, SEGMENTS = "across seeds", "sacrebleu", "segments"
"""Kinds of tests: Welch's, sacrebleu's of a corpus score, and comet-compare's of segment scores."""


@dataclass(frozen=True)
class SignificanceResult:
    """What was found of a difference between two systems."""

    p: float
    kind: str
    """Of the test: ACROSS_SEEDS, SACREBLEU or SEGMENTS."""
    wins: float | None = None
    """Of a neural metric: the share of comet-compare's resamples (0 to 1) in which the system's mean is the higher one."""


def describe_tests(test: str, used: Set[str]) -> str:
    """How differences were tested, in words; `used`: which of `ACROSS_SEEDS`, `SACREBLEU` and `SEGMENTS` were. Empty for none."""
    sacrebleu = {
        BOOTSTRAP: f"paired bootstrap resampling with {SAMPLES[BOOTSTRAP]} samples, as sacrebleu does it",
        RANDOMISATION: f"paired approximate randomisation with {SAMPLES[RANDOMISATION]} trials, as sacrebleu does it",
    }
    words = {
        ACROSS_SEEDS: "Welch's t-test across seeds where a system has several",
        SACREBLEU: sacrebleu[test],
        SEGMENTS: "paired t-test over segments for neural metrics",
    }
    return "; ".join(text for kind, text in words.items() if kind in used)


class PairedTests:
    """Paired tests with a memory."""

    def __init__(self, memory: Path, test: str = BOOTSTRAP) -> None:
        """`test`: bootstrap or randomisation, of sacrebleu's metrics."""
        self.memory, self.test = memory, test
        try:
            self._known: dict[str, float] = json.loads(memory.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._known = {}
        self._new = False

    def p_value(self, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]) -> float:
        """Of the difference between two systems' outputs for the same segments, by one of sacrebleu's metrics."""
        # The bootstrap came first, and what stores remember of it has no name of a test.
        test = [] if self.test == BOOTSTRAP else [self.test]
        asked = json.dumps(
            [metric, signature, SAMPLES[self.test], *test, list(one), list(other), list(references)], ensure_ascii=False
        )
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = sacrebleu_p_value(self.test, metric, signature, one, other, references)
            self._new = True
        return self._known[key]

    def keep(self) -> None:
        """Write what was computed, where the store lets us."""
        if self._new:
            try:
                self.memory.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.memory, self._known)
            except OSError:
                return  # a store that is only read still has a report; the next one resamples again


def sacrebleu_p_value(
    test: str, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]
) -> float:
    """sacrebleu's `--paired-bs` or `--paired-ar` p-value of `other` against the baseline `one`."""
    from alma_pipeline.ml.scoring.paired_tests import compare_corpora

    short = {BOOTSTRAP: "bs", RANDOMISATION: "ar"}[test]
    found = compare_corpora(short, [metric], tokenizer(signature), references, one, other, SAMPLES[test])
    return found[metric].p_value


def segment_test(one: Sequence[float], other: Sequence[float]) -> SignificanceResult | None:
    """comet-compare's paired t-test and bootstrap of `other`'s segment scores against `one`'s; None for fewer than two."""
    if len(one) < 2:
        return None
    from alma_pipeline.ml.scoring.paired_tests import compare_segments as test

    found = test(one, other)
    return SignificanceResult(found.p_value, SEGMENTS, found.wins)


def seed_test(ours: Sequence[float], theirs: Sequence[float]) -> SignificanceResult | None:
    """Welch's t-test between the seeds of two systems, or a one-sample test where the other has one; None without two seeds."""
    from scipy import stats

    if len(ours) < 2 or not theirs or (len(set(ours)) == 1 and len(set(theirs)) == 1):
        return None
    if len(theirs) == 1:
        return SignificanceResult(float(stats.ttest_1samp(ours, theirs[0]).pvalue), ACROSS_SEEDS)
    return SignificanceResult(float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue), ACROSS_SEEDS)
