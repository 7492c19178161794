"""Significance of score differences: sacrebleu's paired tests, comet-compare's tests, and Welch's t-test across seeds.

sacrebleu's p-values are cached in the store, so that a report can be rendered again without resampling.
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
"""Bootstrap samples (Koehn 2004), randomisation trials (Riezler and Maxwell 2005): sacrebleu's defaults, as is seed 12345."""
LEVEL = 0.05
ACROSS_SEEDS, SACREBLEU, SEGMENTS = "across seeds", "sacrebleu", "segments"
"""Kinds of tests: Welch's t-test, sacrebleu's on corpus scores, and comet-compare's on segment scores."""


@dataclass(frozen=True)
class SignificanceResult:
    """The result of testing the difference between two systems."""

    p: float
    kind: str
    """ACROSS_SEEDS, SACREBLEU or SEGMENTS."""
    wins: float | None = None
    """Neural metrics only: the share of comet-compare's resamples (0 to 1) in which the system has the higher mean."""


def describe_tests(test: str, used: Set[str]) -> str:
    """A description of the tests in `used` (of ACROSS_SEEDS, SACREBLEU, SEGMENTS); empty for none. `test`: sacrebleu's."""
    sacrebleu = {
        BOOTSTRAP: f"paired bootstrap resampling with {SAMPLES[BOOTSTRAP]} samples, as in sacrebleu",
        RANDOMISATION: f"paired approximate randomisation with {SAMPLES[RANDOMISATION]} trials, as in sacrebleu",
    }
    words = {
        ACROSS_SEEDS: "Welch's t-test across seeds for systems with several",
        SACREBLEU: sacrebleu[test],
        SEGMENTS: "paired t-test over segments for neural metrics",
    }
    return "; ".join(text for kind, text in words.items() if kind in used)


class PairedTests:
    """sacrebleu's paired test with a cache of p-values."""

    def __init__(self, path: Path, test: str = BOOTSTRAP) -> None:
        """`path`: the cache, a JSON file; a missing or broken one counts as empty. `test`: bootstrap or randomisation."""
        self.path, self.test = path, test
        try:
            self._known: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._new = False

    def p_value(self, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]) -> float:
        """The p-value of `other` against `one`, both translations of the same segments, by one of sacrebleu's metrics."""
        # The bootstrap was the only test at first, so its cache keys do not name the test.
        test = [] if self.test == BOOTSTRAP else [self.test]
        text = json.dumps(
            [metric, signature, SAMPLES[self.test], *test, list(one), list(other), list(references)], ensure_ascii=False
        )
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = sacrebleu_p_value(self.test, metric, signature, one, other, references)
            self._new = True
        return self._known[key]

    def save(self) -> None:
        """Write new p-values to the cache, unless the store is read-only."""
        if self._new:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self._known)
            except OSError:
                return  # a read-only store can be reported too; the next report resamples


def sacrebleu_p_value(
    test: str, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]
) -> float:
    """sacrebleu's `--paired-bs` or `--paired-ar` p-value of `other` against the baseline `one`."""
    from alma_pipeline.ml.scoring.paired_tests import compare_corpora

    short = {BOOTSTRAP: "bs", RANDOMISATION: "ar"}[test]
    found = compare_corpora(short, [metric], tokenizer(signature), references, one, other, SAMPLES[test])
    return found[metric].p_value


def segment_test(one: Sequence[float], other: Sequence[float]) -> SignificanceResult | None:
    """comet-compare's paired t-test and bootstrap of `other`'s segment scores against `one`'s; None below two segments."""
    if len(one) < 2:
        return None
    from alma_pipeline.ml.scoring.paired_tests import compare_segments as test

    found = test(one, other)
    return SignificanceResult(found.p_value, SEGMENTS, found.wins)


def seed_test(ours: Sequence[float], theirs: Sequence[float]) -> SignificanceResult | None:
    """Welch's t-test between two systems' seeds; a one-sample t-test if `theirs` has one seed.

    None if `ours` has fewer than two seeds or neither side varies.
    """
    from scipy import stats

    if len(ours) < 2 or not theirs or (len(set(ours)) == 1 and len(set(theirs)) == 1):
        return None
    if len(theirs) == 1:
        return SignificanceResult(float(stats.ttest_1samp(ours, theirs[0]).pvalue), ACROSS_SEEDS)
    return SignificanceResult(float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue), ACROSS_SEEDS)
