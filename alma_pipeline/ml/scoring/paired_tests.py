"""Whether one system's translations are better than another's, or only luckier: paired tests on the same sentences.

For sacrebleu's metrics the tests are sacrebleu's own (`--paired-bs` after Koehn 2004, `--paired-ar` after Riezler and Maxwell
2005), so that a p-value equals the command's. For metrics that score segments, as COMET does: the bootstrap and the paired
t-test of comet-compare, with a seed.
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
SPLITS, SHARE, EPSILON = 300, 0.4, 0.001
"""Of comet-compare: samples, their share of the sentences, and the difference of means (of 0 to 1) below which both tie."""


@dataclass(frozen=True)
class CorpusComparison:
    """A system against a baseline, by one metric."""

    baseline: float
    score: float
    p_value: float
    signature: str
    """The metric's, with the test, its samples and its seed."""

    @property
    def tie(self) -> bool:
        """Whether the difference may be chance, at the 5 % level. Equal scores tie too: sacrebleu's tests, which ask how often
        chance makes a larger difference, give them the smallest p-value there is."""
        return self.score == self.baseline or not self.p_value < LEVEL


@dataclass(frozen=True)
class SegmentComparison:
    """A system against a baseline, by a metric that scores segments."""

    baseline: float
    score: float
    p_value: float
    """Of the paired t-test, two-sided."""
    wins: float
    """Share of the bootstrap's samples in which the system's mean is the higher one."""
    losses: float
    ties: float

    @property
    def tie(self) -> bool:
        """Whether the difference may be chance, at the 5 % level; so it is where all segments are equal."""
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
    """`system` against `baseline` by each of sacrebleu's metrics in `names`, both translating the same sentences.

    `test`: bs (paired bootstrap) or ar (approximate randomisation). `samples`: 0 takes sacrebleu's 1,000 or 10,000.
    Raises ValueError for another test or unequal numbers of sentences.
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
    """One metric at a time: sacrebleu keeps results by its own names, which BLEU and spBLEU share. Every metric meets the
    same random numbers all the same."""
    with _seeded(seed):
        signatures, results = PairedTest([("", baseline), ("", system)], {"": metric}, [references], test, samples)()
    ((name, signature),) = signatures.items()
    theirs, ours = results[name]
    return CorpusComparison(theirs.score, ours.score, ours.p_value, str(signature))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """sacrebleu takes its seed from the environment and from nowhere else."""
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
    """comet-compare's tests on segment scores of the same sentences, where a perfect segment has `scale` points.

    Raises ValueError for unequal numbers of segments or fewer than two.
    """
    if len(baseline) != len(system) or len(system) < 2:
        raise ValueError(f"{len(baseline)} and {len(system)} segment scores; expected equally many, two at least")
    ours, theirs = np.asarray(system, dtype=float), np.asarray(baseline, dtype=float)
    differences = _resampled_means(ours - theirs, seed)
    margin = EPSILON * scale
    return SegmentComparison(
        baseline=float(theirs.mean()),
        score=float(ours.mean()),
        p_value=1.0 if np.array_equal(ours, theirs) else float(stats.ttest_rel(ours, theirs).pvalue),
        wins=float((differences >= margin).mean()),
        losses=float((differences <= -margin).mean()),
        ties=float((np.abs(differences) < margin).mean()),
    )


def _resampled_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[SPLITS] means over samples, with replacement, of `SHARE` of the values."""
    size = max(1, int(len(values) * SHARE))
    places = np.random.default_rng(seed).choice(len(values), size=(SPLITS, size), replace=True)
    means: NDArray[np.float64] = values[places].mean(axis=1)
    return means
