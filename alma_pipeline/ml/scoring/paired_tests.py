"""Paired significance tests between two systems on the same sentences.

sacrebleu's metrics use sacrebleu's own tests (`--paired-bs`, Koehn 2004; `--paired-ar`, Riezler and Maxwell 2005), with the same
p-values as its command. Metrics that score segments, such as COMET, use comet-compare's bootstrap and paired t-test, with a seed.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest
from scipy import stats

from alma_pipeline.ml.scoring import sacrebleu_metrics

SEED = 12345
"""sacrebleu's default."""
LEVEL = 0.05
BOOTSTRAP_SAMPLES, SAMPLE_SHARE, TIE_MARGIN = 300, 0.4, 0.001
"""comet-compare's defaults: samples, their share of the sentences, and the difference of means (0 to 1) below which they tie."""


@dataclass(frozen=True)
class CorpusComparison:
    """A system compared with a baseline by one of sacrebleu's metrics."""

    baseline: float
    score: float
    p_value: float
    signature: str
    """The metric's signature with the test, its samples and its seed."""

    @property
    def tie(self) -> bool:
        """Whether the difference is not significant at the 5 % level.

        Equal scores tie too: sacrebleu's p-value is how often chance makes a larger difference, so theirs is the smallest.
        """
        return self.score == self.baseline or not self.p_value < LEVEL


@dataclass(frozen=True)
class SegmentComparison:
    """A system compared with a baseline by a metric that scores segments."""

    baseline: float
    score: float
    p_value: float
    """Two-sided paired t-test."""
    wins: float
    """Share of the bootstrap samples in which the system has the higher mean; `losses` and `ties` alike."""
    losses: float
    ties: float

    @property
    def tie(self) -> bool:
        """Whether the difference is not significant at the 5 % level; true if all segments are equal."""
        return not self.p_value < LEVEL


def compare_corpora(
    test: str,
    names: Sequence[str],
    tokenizer: str,
    references: Sequence[str],
    baseline: Sequence[str],
    system: Sequence[str],
    samples: int = 0,
    seed: int = SEED,
) -> dict[str, CorpusComparison]:
    """Compare `system` with `baseline` by each of sacrebleu's metrics in `names`; both translate the same sentences.

    `test`: bs (paired bootstrap) or ar (approximate randomisation). `samples`: 0 uses sacrebleu's default, 1,000 or 10,000.
    Raises ValueError for an unknown test or unequal numbers of sentences.
    """
    if test not in ("bs", "ar"):
        raise ValueError(f"test {test!r}: expected bs or ar")
    if not len(references) == len(baseline) == len(system):
        raise ValueError(f"{len(references)} references, {len(baseline)} and {len(system)} hypotheses; expected equally many")
    return {
        name: _paired(test, sacrebleu_metrics.metric(name, tokenizer), references, baseline, system, samples, seed)
        for name in names
    }


def _paired(
    test: str, metric: Metric, references: Sequence[str], baseline: Sequence[str], system: Sequence[str], samples: int, seed: int
) -> CorpusComparison:
    """One metric at a time, since sacrebleu keys results by class name, which BLEU and spBLEU share.

    The seed is set anew for each, so every metric still gets the same random numbers.
    """
    with _seeded(seed):
        signatures, results = PairedTest([("", baseline), ("", system)], {"": metric}, [references], test, samples)()
    ((name, signature),) = signatures.items()
    theirs, ours = results[name]
    return CorpusComparison(theirs.score, ours.score, ours.p_value, str(signature))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Set sacrebleu's seed, which it reads from the environment only."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before


def compare_segments(
    baseline: Sequence[float], system: Sequence[float], scale: float = 100, seed: int = SEED
) -> SegmentComparison:
    """comet-compare's tests on segment scores of the same sentences. `scale`: the score of a perfect segment.

    Raises ValueError for unequal numbers of segments or fewer than two.
    """
    if len(baseline) != len(system) or len(system) < 2:
        raise ValueError(f"{len(baseline)} and {len(system)} segment scores; expected equally many, two at least")
    # Both systems are resampled with the same places, so resampling their differences is the same test.
    ours, theirs = np.asarray(system, dtype=float), np.asarray(baseline, dtype=float)
    differences = _resampled_means(ours - theirs, seed)
    margin = TIE_MARGIN * scale
    return SegmentComparison(
        baseline=float(theirs.mean()),
        score=float(ours.mean()),
        p_value=1.0 if np.array_equal(ours, theirs) else float(stats.ttest_rel(ours, theirs).pvalue),
        wins=float((differences >= margin).mean()),
        losses=float((differences <= -margin).mean()),
        ties=float((np.abs(differences) < margin).mean()),
    )


def _resampled_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[BOOTSTRAP_SAMPLES] means over samples of `SAMPLE_SHARE` of the values, drawn with replacement."""
    size = max(1, int(len(values) * SAMPLE_SHARE))
    places = np.random.default_rng(seed).choice(len(values), size=(BOOTSTRAP_SAMPLES, size), replace=True)
    means: NDArray[np.float64] = values[places].mean(axis=1)
    return means
