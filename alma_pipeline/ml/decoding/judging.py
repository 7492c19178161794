"""Of each sentence's samples the best by the settings' scorers: sentence chrF and neural metrics, or the mean of several."""

import dataclasses
from collections.abc import Sequence

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.decoding import reranking
from alma_pipeline.ml.scoring import comet
from alma_pipeline.ml.scoring.comet import Segment
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.schema import Neural

CHRF = "chrf"


class Judges:
    """The scorers that `rank_by` of a job's settings names."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.signatures: dict[str, str] = {}
        """By scorer, as soon as it has scored."""

    def check(self) -> None:
        """Ask the neural ones before anything is decoded. Raises UserError for one that cannot be had, reads a reference where
        `quality` has none, or reads none where `mbr` has the other samples."""
        for name in self.job.config.neural():
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
        repeated = reranking.pair_sources(candidates, sources)

        def score(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
            parts = zip(repeated, hypotheses, references, strict=True)
            return self._mean([Segment(source, *map(_line, texts)) for source, *texts in parts])

        return reranking.minimum_bayes_risk(candidates, score)

    def by_quality(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[int]:
        """Places of the best translations, told without a reference. Raises UserError for a scorer that needs one."""

        def score(hypotheses: Sequence[str], own: Sequence[str]) -> list[float]:
            return self._mean([Segment(source, _line(text), None) for text, source in zip(hypotheses, own, strict=True)])

        return reranking.best_quality(candidates, sources, score)

    def _mean(self, segments: list[Segment]) -> list[float]:
        columns = [self._column(name, segments) for name in self.job.config.rank_by]
        return [sum(values) / len(values) for values in zip(*columns, strict=True)]

    def _column(self, name: str, segments: list[Segment]) -> list[float]:
        if name == CHRF:
            self.signatures[name] = "sentence chrF2, sacrebleu"
            return reranking.chrf([segment.hypothesis for segment in segments], [segment.reference or "" for segment in segments])
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
