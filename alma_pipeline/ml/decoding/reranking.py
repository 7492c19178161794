"""Which of several sampled translations is taken: minimum Bayes risk, or a score of quality.

Texts in, places out. A scorer is a plain function of two lists of equal length: hypotheses and what each is held
against, a reference for minimum Bayes risk, the source for quality estimation. Higher is better.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from sacrebleu.metrics import CHRF

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.scoring import comet
from alma_pipeline.ml.scoring.comet import Segment
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.schema import Neural

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""hypotheses, references (or sources) -> one score each."""


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence chrF (character 6-grams, beta 2; Popović 2015), 0 to 100."""
    metric = CHRF()
    return [
        metric.sentence_score(hypothesis, [reference]).score for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def minimum_bayes_risk(candidates: Sequence[Sequence[str]], score: Scorer) -> list[int]:
    """Of each source's candidates, the place of the one that is on average most like all of them.

    Kumar and Byrne 2004; with samples as hypotheses and as pseudo-references alike, Eikema and Aziz 2020
    (arXiv 2005.10283). A text that was sampled twice counts twice as a reference; of equals the first is taken. The
    scorer is called once, with every ordered pair of different texts of a source.
    """
    counted = [Counter(texts) for texts in candidates]
    pairs = [(hypothesis, reference) for texts in counted for hypothesis in texts for reference in texts]
    scores = iter(score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    chosen = []
    for texts, found in zip(counted, candidates, strict=True):
        gains = {hypothesis: sum(next(scores) * count for count in texts.values()) for hypothesis in texts}
        chosen.append(_best([gains[text] for text in found]))
    return chosen


def pair_sources(candidates: Sequence[Sequence[str]], sources: Sequence[str]) -> list[str]:
    """The source of each pair that `minimum_bayes_risk` hands to its scorer, for one that wants to see it too."""
    return [source for texts, source in zip(candidates, sources, strict=True) for _ in range(len(set(texts)) ** 2)]


def best_quality(candidates: Sequence[Sequence[str]], sources: Sequence[str], score: Scorer) -> list[int]:
    """Of each source's candidates, the place of the one with the highest score against the source; of equals the first.

    Quality-aware decoding by reranking (Fernandes et al. 2022, arXiv 2205.00978). Each different text is scored once.
    """
    counted = [dict.fromkeys(texts) for texts in candidates]
    pairs = [(text, source) for texts, source in zip(counted, sources, strict=True) for text in texts]
    scores = iter(score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    chosen = []
    for texts, found in zip(counted, candidates, strict=True):
        quality = {text: next(scores) for text in texts}
        chosen.append(_best([quality[text] for text in found]))
    return chosen


def _best(scores: Sequence[float]) -> int:
    if not scores:
        raise ValueError("found a source without candidates; expected at least one of each")
    return max(range(len(scores)), key=lambda place: scores[place])


BY_CHRF = "chrf"


class Judges:
    """The scorers that `rank_by` of a job's settings names."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.signatures: dict[str, str] = {}
        """By scorer, as soon as it has scored."""

    def check(self) -> None:
        """Ask the neural ones before anything is decoded. Raises UserError for one that cannot be had, reads a reference where
        `quality` has none, or reads none where `mbr` has the other samples."""
        for name in self.job.config.scorer_names():
            scorer = self._scorer(name)
            worker = comet.Worker(scorer, self.job.hardware)
            worker.close()
            asked = f"decoding={self.job.config.decoding} with rank_by={name}: {scorer.model}"
            if self.job.config.decoding == "quality" and worker.reference:
                raise UserError(f"{asked} needs a reference, and there is none here; take a scorer without, as kiwi-22")
            if self.job.config.decoding == "mbr" and not worker.reference:
                raise UserError(
                    f"{asked} reads no reference, and mbr compares each sample with the others; take decoding=quality, or a "
                    "scorer that reads one, as comet-22"
                )

    def by_risk(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[int]:
        """Places of least risk: the other samples are the references (`reranking.minimum_bayes_risk`)."""
        repeated = pair_sources(candidates, sources)

        def score(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
            parts = zip(repeated, hypotheses, references, strict=True)
            return self._mean([Segment(source, *map(_line, texts)) for source, *texts in parts])

        return minimum_bayes_risk(candidates, score)

    def by_quality(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[int]:
        """Places of the best translations, told without a reference. Raises UserError for a scorer that needs one."""

        def score(hypotheses: Sequence[str], own: Sequence[str]) -> list[float]:
            return self._mean([Segment(source, _line(text), None) for text, source in zip(hypotheses, own, strict=True)])

        return best_quality(candidates, sources, score)

    def _mean(self, segments: list[Segment]) -> list[float]:
        columns = [self._column(name, segments) for name in self.job.config.rank_by]
        return [sum(values) / len(values) for values in zip(*columns, strict=True)]

    def _column(self, name: str, segments: list[Segment]) -> list[float]:
        if name == BY_CHRF:
            self.signatures[name] = "sentence chrF2, sacrebleu"
            return chrf([segment.hypothesis for segment in segments], [segment.reference or "" for segment in segments])
        scorer = self._scorer(name)
        cache = SegmentCache(self.job.cache / "segment_scores.db")
        made = comet.score(scorer, segments, self.job.hardware, cache, lambda done, total: self.job.log(done, total, {}))
        self.signatures[name] = made.signature
        return made.scores

    def _scorer(self, name: str) -> Neural:
        scorer = comet.placed(self.job.config.scorers[name], self.job.files)
        if self.job.config.decoding == "quality":  # one that could use a reference is asked to do without
            return dataclasses.replace(scorer, reference=False)
        return scorer


def _line(text: str) -> str:
    return one_line(text)[0]
