"""Whether one system's score differs from another's beyond chance, by sacrebleu's own paired tests.

Answers are kept in the store by what they were computed from: a page that is made again need not resample.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alma_pipeline.store import write_json

SAMPLES = 1000
"""Bootstrap resamples (Koehn 2004; sacrebleu's default). Its seed is sacrebleu's own, 12345."""
LEVEL = 0.05
SACREBLEU = ("chrf++", "bleu", "spbleu", "ter")
METHOD = (
    f"paired bootstrap resampling with {SAMPLES} samples, as sacrebleu does it; paired t-test over segments for neural metrics"
)


class PairedTests:
    """Paired tests with a memory."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        try:
            self._known: dict[str, float] = json.loads(memory.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._known = {}
        self._new = False

    def p_value(self, metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]) -> float:
        """Of the difference between two systems' outputs for the same segments, by a metric in `SACREBLEU`."""
        asked = json.dumps([metric, signature, SAMPLES, list(one), list(other), list(references)], ensure_ascii=False)
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = bootstrap(metric, signature, one, other, references)
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


def bootstrap(metric: str, signature: str, one: Sequence[str], other: Sequence[str], references: Sequence[str]) -> float:
    """sacrebleu's `--paired-bs` p-value of `other` against the baseline `one`."""
    from sacrebleu.significance import PairedTest

    named = [("one", list(one)), ("other", list(other))]
    _, results = PairedTest(named, {metric: _metric(metric, signature)}, [list(references)], test_type="bs", n_samples=SAMPLES)()
    found = next(values for name, values in results.items() if name != "System")
    return float(found[1].p_value)


def _metric(name: str, signature: str) -> Any:
    """As it was when the scores were computed."""
    from sacrebleu.metrics import BLEU, CHRF, TER

    if name in ("bleu", "spbleu"):
        return BLEU(tokenize=_told(signature, "tok", "13a"))
    if name == "ter":
        return TER(asian_support=_told(signature, "asian", "no") == "yes", normalized=_told(signature, "norm", "no") == "yes")
    return CHRF(word_order=int(_told(signature, "nw", "2")))


def _told(signature: str, name: str, otherwise: str) -> str:
    """A part of a sacrebleu signature: `tok` of `nrefs:1|tok:13a`."""
    parts = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    return parts.get(name, otherwise)


def segmental(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of a paired t-test over segment scores, as comet-compare has it; 1 where all are equal."""
    from scipy import stats

    return 1.0 if list(one) == list(other) else float(stats.ttest_rel(other, one).pvalue)


def across_seeds(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Welch's t-test between the seeds of two systems, or a one-sample test where the other has one; None without two seeds."""
    from scipy import stats

    if len(ours) < 2 or not theirs or (len(set(ours)) == 1 and len(set(theirs)) == 1):
        return None
    if len(theirs) == 1:
        return float(stats.ttest_1samp(ours, theirs[0]).pvalue)
    return float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
