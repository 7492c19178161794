"""Choose among sampled translations: by minimum Bayes risk, or by estimated quality.

Takes texts and returns positions. A scorer is a function of two lists of equal length, hypotheses and what each is compared
with: a reference for minimum Bayes risk, the source for quality estimation. Higher is better.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from sacrebleu.metrics import CHRF

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.scoring import comet
from alma_pipeline.ml.scoring.comet import CometSegment
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.schema import Neural

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""(hypotheses, references or sources) -> one score each."""
CHRF_NAME = "chrf"
"""The scorer in `rank_by` that needs no model."""


class Reranker:
    """Chooses among samples with the scorers that a job's `rank_by` names."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.signatures: dict[str, str] = {}
        """By scorer, as soon as it has scored."""

    def check(self) -> None:
        """Start each neural scorer once, before anything is decoded.

        Raises UserError for a scorer that is not available, that needs a reference under `quality`, which has none, or that
        reads none under `mbr`, where the other samples are the references.
        """
        for name in self.job.config.scorer_names():
            scorer = self._scorer(name)
            model = comet.find_model(scorer, self.job.hardware)
            setting = f"decoding={self.job.config.decoding} with rank_by={name}: {scorer.model}"
            if self.job.config.decoding == "quality" and model.reference:
                raise UserError(f"{setting} needs a reference, but there is none; use a reference-free scorer such as kiwi-22")
            if self.job.config.decoding == "mbr" and not model.reference:
                raise UserError(
                    f"{setting} reads no reference, but mbr compares each sample with the others; use decoding=quality, or a "
                    "scorer that reads a reference, such as comet-22"
                )

    def by_mbr(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[int]:
        """Positions of least expected risk, with the other samples as references."""
        repeated = pair_sources(candidates, sources)

        def score(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
            parts = zip(repeated, hypotheses, references, strict=True)
            return self._mean([CometSegment(source, *map(_line, texts)) for source, *texts in parts])

        return minimum_bayes_risk(candidates, score)

    def by_quality(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[int]:
        """Positions of the best translations by reference-free scorers."""

        def score(hypotheses: Sequence[str], own: Sequence[str]) -> list[float]:
            return self._mean([CometSegment(source, _line(text), None) for text, source in zip(hypotheses, own, strict=True)])

        return best_quality(candidates, sources, score)

    def _mean(self, segments: list[CometSegment]) -> list[float]:
        """The mean over the scorers, for each segment."""
        columns = [self._column(name, segments) for name in self.job.config.rank_by]
        return [sum(values) / len(values) for values in zip(*columns, strict=True)]

    def _column(self, name: str, segments: list[CometSegment]) -> list[float]:
        """One scorer's scores; neural ones are cached by text."""
        if name == CHRF_NAME:
            self.signatures[name] = "sentence chrF2, sacrebleu"
            return chrf([segment.hypothesis for segment in segments], [segment.reference or "" for segment in segments])
        scorer = self._scorer(name)
        cache = SegmentCache(self.job.cache / "segment_scores.db")
        made = comet.score(scorer, segments, self.job.hardware, cache, lambda done, total: self.job.log(done, total, {}))
        self.signatures[name] = made.signature
        return made.scores

    def _scorer(self, name: str) -> Neural:
        scorer = comet.with_local_model(self.job.config.scorers[name], self.job.files)
        if self.job.config.decoding == "quality":  # a scorer that can use a reference must do without
            return dataclasses.replace(scorer, reference=False)
        return scorer


def minimum_bayes_risk(candidates: Sequence[Sequence[str]], score: Scorer) -> list[int]:
    """For each source, the position of the candidate that is on average most similar to all candidates.

    Kumar and Byrne 2004; with samples as both hypotheses and pseudo-references, Eikema and Aziz 2020 (arXiv 2005.10283). A
    text sampled twice counts twice as a reference; on a tie the first wins. The scorer is called once, with every ordered
    pair of different texts of a source. Raises ValueError for a source without candidates.
    """
    # Score different texts only, and weight each reference by its count.
    counted = [Counter(texts) for texts in candidates]
    pairs = [(hypothesis, reference) for texts in counted for hypothesis in texts for reference in texts]
    scores = iter(score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    # The scores come back in the order of the pairs.
    chosen = []
    for texts, found in zip(counted, candidates, strict=True):
        gains = {hypothesis: sum(next(scores) * count for count in texts.values()) for hypothesis in texts}
        chosen.append(_best([gains[text] for text in found]))
    return chosen


def best_quality(candidates: Sequence[Sequence[str]], sources: Sequence[str], score: Scorer) -> list[int]:
    """For each source, the position of the candidate that scores highest against the source; on a tie the first.

    Quality-aware decoding by reranking (Fernandes et al. 2022, arXiv 2205.00978). Each different text is scored once.
    Raises ValueError for a source without candidates.
    """
    counted = [dict.fromkeys(texts) for texts in candidates]
    pairs = [(text, source) for texts, source in zip(counted, sources, strict=True) for text in texts]
    scores = iter(score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    chosen = []
    for texts, found in zip(counted, candidates, strict=True):
        quality = {text: next(scores) for text in texts}
        chosen.append(_best([quality[text] for text in found]))
    return chosen


def pair_sources(candidates: Sequence[Sequence[str]], sources: Sequence[str]) -> list[str]:
    """The source of each pair that `minimum_bayes_risk` passes to its scorer, for scorers that read the source too."""
    return [source for texts, source in zip(candidates, sources, strict=True) for _ in range(len(set(texts)) ** 2)]


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence chrF (character 6-grams, beta 2; Popović 2015), 0 to 100."""
    metric = CHRF()
    return [
        metric.sentence_score(hypothesis, [reference]).score for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def _best(scores: Sequence[float]) -> int:
    """Position of the highest score, the first on a tie."""
    if not scores:
        raise ValueError("found a source without candidates; expected at least one for each")
    return max(range(len(scores)), key=lambda place: scores[place])


def _line(text: str) -> str:
    """Scorers read one line per segment."""
    return one_line(text)[0]
