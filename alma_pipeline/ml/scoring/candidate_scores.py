"""Scores of candidate translations: sentence chrF, neural scorers, or their mean. 100 is the best there is.

Which of them are chosen is `candidates`' business.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alma_pipeline.job import Job
from alma_pipeline.ml.scoring import comet
from alma_pipeline.ml.scoring.candidates import Candidate, Sentence
from alma_pipeline.ml.scoring.comet import Segment
from alma_pipeline.ml.scoring.metrics import sentence_chrf
from alma_pipeline.ml.scoring.segment_cache import SegmentCache

CHRF = "chrf"


@dataclass(frozen=True)
class Draft:
    """A candidate before it has a score."""

    text: str
    origin: str


def scored(
    job: Job, names: Sequence[str], sources: Sequence[Sentence], drafts: Sequence[Sequence[Draft]]
) -> tuple[list[list[Candidate]], dict[str, str]]:
    """Each source's drafts with the mean of their scores by `names`, and each scorer's signature.

    A name is chrf or one of the settings' `scorers`. Every draft is scored, the reference by the reference too: a metric
    that reads the reference will find it perfect, one that does not judges it as any other. Raises UserError for a scorer
    that cannot be had.
    """
    pairs = [(source, draft) for source, found in zip(sources, drafts, strict=True) for draft in found]
    columns, signatures = {}, {}
    for name in names:
        columns[name], signatures[name] = _column(job, name, pairs)
    rows = iter([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
    return [list(_candidates(found, rows)) for found in drafts], signatures


def _column(job: Job, name: str, pairs: list[tuple[Sentence, Draft]]) -> tuple[list[float], str]:
    if name == CHRF:
        return [sentence_chrf(draft.text, source.reference) for source, draft in pairs], "sentence chrF2, sacrebleu"
    segments = [Segment(source.source, draft.text, source.reference) for source, draft in pairs]
    cache = SegmentCache(job.cache / "segment_scores.db")
    scorer = comet.placed(job.config.scorers[name], job.files)
    made = comet.score(scorer, segments, job.hardware, cache, lambda done, total: job.log(done, total, {}))
    return made.scores, made.signature


def _candidates(drafts: Sequence[Draft], rows: Iterator[dict[str, float]]) -> Iterator[Candidate]:
    for draft in drafts:
        scores = next(rows)
        mean = sum(scores.values()) / len(scores)
        yield Candidate(draft.text, mean, draft.origin, scores if len(scores) > 1 else {})
