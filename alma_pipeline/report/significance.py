"""Whether one system's score differs from another's beyond chance, by sacrebleu's own paired tests.

Answers are kept in the store by what they were computed from: a page that is made again need not resample.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.files import write_json

BOOTSTRAP, RANDOMISATION = "bootstrap", "randomisation"
SAMPLES = {BOOTSTRAP: 1000, RANDOMISATION: 10000}
"""Resamples (Koehn 2004) or trials (Riezler and Maxwell 2005): sacrebleu's defaults. The seed is sacrebleu's own, 12345."""
LEVEL = 0.05
SACREBLEU = ("chrf++", "bleu", "spbleu", "ter")


@dataclass(frozen=True)
class Chance:
    """What was found of a difference between two systems."""

    p: float
    wins: float | None = None
    """Of a neural metric: the share of comet-compare's resamples (0 to 1) in which the system's mean is the higher one."""


def method(test: str, several_seeds: bool) -> str:
    """What a table says of how its differences were tested; `several_seeds`: of any system in it."""
    names = {
        BOOTSTRAP: "paired bootstrap resampling with {} samples",
        RANDOMISATION: "paired approximate randomisation with {} trials",
    }
    neural = "paired t-test over segments for neural metrics, beside the share of comet-compare's resamples that the system wins"
    one_seed = f"{names[test].format(SAMPLES[test])}, as sacrebleu does it; {neural}"
    return (
        f"Welch's t-test across seeds where a system has several, ± their standard deviation; else {one_seed}"
        if several_seeds
        else one_seed
    )


class PairedTests:
    """Paired tests with a memory."""

    def __init__(self, memory: Path, test: str = BOOTSTRAP) -> None:
        """`test`: bootstrap or randomisation, of the metrics in `SACREBLEU`."""
        self.memory, self.test = memory, test
        try:
            self._known: dict[str, float] = json.loads(memory.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._known = {}
        self._new = False

    def p_value(self, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]) -> float:
        """Of the difference between two systems' outputs for the same segments, by a metric in `SACREBLEU`."""
        # The bootstrap came first, and what stores remember of it has no name of a test.
        test = [] if self.test == BOOTSTRAP else [self.test]
        asked = json.dumps(
            [metric, signature, SAMPLES[self.test], *test, list(one), list(other), list(references)], ensure_ascii=False
        )
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = resampled(self.test, metric, signature, one, other, references)
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


def resampled(
    test: str, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]
) -> float:
    """sacrebleu's `--paired-bs` or `--paired-ar` p-value of `other` against the baseline `one`."""
    from alma_pipeline.ml.scoring.paired_tests import paired

    short = {BOOTSTRAP: "bs", RANDOMISATION: "ar"}[test]
    found = paired(short, [metric], _tokenizer(metric, signature), references, one, other, SAMPLES[test])
    return found[metric].p_value


def _tokenizer(metric: str, signature: str) -> str:
    """BLEU's of the target language, as it was when the scores were computed; TER says only whether it took characters apart."""
    if metric == "ter":
        return "zh" if _told(signature, "asian", "no") == "yes" else "13a"
    return _told(signature, "tok", "13a")


def _told(signature: str, name: str, otherwise: str) -> str:
    """A part of a sacrebleu signature: `tok` of `nrefs:1|tok:13a`."""
    parts = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    return parts.get(name, otherwise)


def segmental(one: Sequence[float], other: Sequence[float]) -> Chance | None:
    """comet-compare's paired t-test and bootstrap of `other`'s segment scores against `one`'s; None for fewer than two."""
    if len(one) < 2:
        return None
    from alma_pipeline.ml.scoring.paired_tests import segmental as test

    found = test(one, other)
    return Chance(found.p_value, found.wins)


def across_seeds(ours: Sequence[float], theirs: Sequence[float]) -> Chance | None:
    """Welch's t-test between the seeds of two systems, or a one-sample test where the other has one; None without two seeds."""
    from scipy import stats

    if len(ours) < 2 or not theirs or (len(set(ours)) == 1 and len(set(theirs)) == 1):
        return None
    if len(theirs) == 1:
        return Chance(float(stats.ttest_1samp(ours, theirs[0]).pvalue))
    return Chance(float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue))
