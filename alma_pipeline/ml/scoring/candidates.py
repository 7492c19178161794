"""Builds preference triples: scores a source's candidate translations, then selects a chosen and a rejected one by a rule.

Generates no candidates; `decoding` samples them.
"""

import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.scoring import comet
from alma_pipeline.ml.scoring.comet import CometSegment
from alma_pipeline.ml.scoring.metrics import sentence_chrf
from alma_pipeline.ml.scoring.segment_cache import SegmentCache

REFERENCE, SAMPLE = "reference", "sample"


@dataclass(frozen=True)
class SourceSentence:
    """A source sentence and its reference."""

    id: str
    direction: str
    source: str
    reference: str


@dataclass(frozen=True)
class ScoredCandidate:
    """A translation, its score and its origin."""

    text: str
    score: float
    origin: str
    """`sample`, `reference`, the name of another checkpoint, or the name of another system."""
    scores: dict[str, float] = field(default_factory=dict)
    """By scorer; `score` is their mean. Empty with a single scorer."""


@dataclass(frozen=True)
class PairChoice:
    """The chosen and the rejected candidate; `dropped` is the reason if they make no pair, else empty."""

    chosen: ScoredCandidate | None = None
    rejected: ScoredCandidate | None = None
    dropped: str = ""


@dataclass
class Triples:
    """Rows of a preference data set, and the sources that gave none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    unpaired: list[dict[str, Any]] = field(default_factory=list)
    """Sources without a pair, with all their candidates and the reason under `dropped`."""
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Direction → reason → number of sources."""
    chosen_is_reference: Counter[str] = field(default_factory=Counter)
    """By direction."""
    chosen_from: Counter[str] = field(default_factory=Counter)
    """By origin."""
    rejected_from: Counter[str] = field(default_factory=Counter)


def choose_pair(candidates: Sequence[ScoredCandidate], min_margin: float, rule: str = "best_worst") -> PairChoice:
    """Select two candidates by a rule, or give the reason why there is no pair.

    best_worst (arXiv 2401.08417, sec. 3.1): highest score against lowest. margin: highest score against the highest of those at
    least `min_margin` points below it, the hardest that is clearly worse. reference (X-ALMA, arXiv 2410.03115, according to its
    reviews): the reference, whatever its score, against the lowest score of the others.

    Equal texts count once; ties in score go to the reference, then to the earlier candidate. Reasons for no pair, in the order of
    the checks: one_candidate (fewer than two different texts), empty_chosen, empty_rejected, equal_texts (different only in white
    space or Unicode form); and, unless the rule is `reference`, tie and small_margin (scores less than `min_margin` apart).
    Raises ValueError for the rule `reference` if no candidate is the reference.
    """
    # The reference comes first, so that it wins ties and stays the origin of a text that a sample repeats.
    distinct: dict[str, ScoredCandidate] = {}
    for candidate in sorted(candidates, key=lambda item: item.origin != REFERENCE):
        distinct.setdefault(candidate.text, candidate)
    if len(distinct) < 2:
        return PairChoice(dropped="one_candidate")
    chosen = _chosen(list(distinct.values()), rule)
    rejected = _rejected([item for item in distinct.values() if item is not chosen], chosen, min_margin, rule)
    reasons = {
        "empty_chosen": not chosen.text.strip(),
        "empty_rejected": not rejected.text.strip(),
        "equal_texts": _bare(chosen.text) == _bare(rejected.text),
    }
    if rule != "reference":
        reasons |= {"tie": chosen.score == rejected.score, "small_margin": chosen.score - rejected.score < min_margin}
    return PairChoice(chosen, rejected, next((reason for reason, holds in reasons.items() if holds), ""))


def _chosen(candidates: Sequence[ScoredCandidate], rule: str) -> ScoredCandidate:
    if rule != "reference":
        return max(candidates, key=lambda item: item.score)
    found = [item for item in candidates if item.origin == REFERENCE]
    if not found:
        raise ValueError("rule reference: found no reference among the candidates; expected one")
    return found[0]


def _rejected(others: Sequence[ScoredCandidate], chosen: ScoredCandidate, min_margin: float, rule: str) -> ScoredCandidate:
    clear = [item for item in others if chosen.score - item.score >= min_margin and item.score < chosen.score]
    if rule == "margin" and clear:
        return max(clear, key=lambda item: item.score)
    return min(others, key=lambda item: item.score)


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def build_triples(
    sources: Sequence[SourceSentence],
    candidates: Sequence[Sequence[ScoredCandidate]],
    min_margin: float,
    rule: str = "best_worst",
) -> Triples:
    """A row for each source whose candidates make a pair; the others go to `unpaired`. Both keep all candidates."""
    result = Triples()
    for source, found in zip(sources, candidates, strict=True):
        made = choose_pair(found, min_margin, rule)
        if made.dropped or made.chosen is None or made.rejected is None:
            result.dropped.setdefault(source.direction, Counter())[made.dropped] += 1
            # Kept for inspection: why does a source give no pair, and how close was it?
            kept = {"id": source.id, "source": source.source, "direction": source.direction, "dropped": made.dropped}
            result.unpaired.append(kept | {"candidates": [_kept(candidate) for candidate in found]})
            continue
        result.rows.append(_row(source, made.chosen, made.rejected, found))
        result.chosen_is_reference[source.direction] += made.chosen.origin == REFERENCE
        result.chosen_from[made.chosen.origin] += 1
        result.rejected_from[made.rejected.origin] += 1
    return result


def _row(
    source: SourceSentence, chosen: ScoredCandidate, rejected: ScoredCandidate, candidates: Iterable[ScoredCandidate]
) -> dict[str, Any]:
    return {
        "id": source.id,
        "source": source.source,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "direction": source.direction,
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "candidates": [_kept(candidate) for candidate in candidates],
    }


def _kept(candidate: ScoredCandidate) -> dict[str, Any]:
    """A candidate as a row stores it; with `scores` only if there are several scorers."""
    values = asdict(candidate)
    return values if candidate.scores else {name: value for name, value in values.items() if name != "scores"}


def choose_sources(
    rows: Mapping[str, Sequence[SourceSentence]], count: int, seed: int, taken: frozenset[str] = frozenset()
) -> tuple[list[SourceSentence], dict[str, Counter[str]]]:
    """Draw `count` sources per direction by the seed, in corpus order; and count the rows left out, by direction and reason.

    Left out are repeated sources and those in `taken`, so that no training source is also held out.
    """
    chosen: list[SourceSentence] = []
    dropped: dict[str, Counter[str]] = {}
    for direction, found in rows.items():
        fresh = {row.source: row for row in reversed(found)}  # of equal sources the first row stays
        free = [row for row in found if fresh[row.source] is row and row.source not in taken]
        shared = sum(source in taken for source in fresh)
        dropped[direction] = +Counter({"repeated_source": len(found) - len(fresh), "source_in_training": shared})
        # A generator per direction: adding a direction does not change the draw of the others.
        picked = random.Random(f"{seed} {direction}").sample(range(len(free)), min(count, len(free)))
        chosen += [free[place] for place in sorted(picked)]
    return chosen, dropped


CHRF = "chrf"


@dataclass(frozen=True)
class UnscoredCandidate:
    """A candidate translation before scoring."""

    text: str
    origin: str


def score_candidates(
    job: Job, names: Sequence[str], sources: Sequence[SourceSentence], candidates: Sequence[Sequence[UnscoredCandidate]]
) -> tuple[list[list[ScoredCandidate]], dict[str, str]]:
    """Score each source's candidates by the mean over the scorers in `names`; and give each scorer's signature.

    A name is chrf or an entry of the settings' `scorers`. The reference is scored too: metrics that read the reference find it
    perfect, others rate it like any candidate. Raises UserError for a scorer that is not available.
    """
    # All candidates of all sources go to each scorer in one call, which loads its model once.
    pairs = [(source, candidate) for source, found in zip(sources, candidates, strict=True) for candidate in found]
    columns, signatures = {}, {}
    for name in names:
        columns[name], signatures[name] = _scores(job, name, pairs)
    rows = iter([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
    return [list(_candidates(found, rows)) for found in candidates], signatures


def _scores(job: Job, name: str, pairs: list[tuple[SourceSentence, UnscoredCandidate]]) -> tuple[list[float], str]:
    """One scorer's scores for all pairs, on a scale of 0 to 100, and its signature."""
    if name == CHRF:
        return [sentence_chrf(candidate.text, source.reference) for source, candidate in pairs], "sentence chrF2, sacrebleu"
    segments = [CometSegment(source.source, candidate.text, source.reference) for source, candidate in pairs]
    cache = SegmentCache(job.cache / "segment_scores.db")
    scorer = comet.with_local_model(job.config.scorers[name], job.files)
    result = comet.score(scorer, segments, job.hardware, cache, lambda done, total: job.log(done, total, {}))
    return result.scores, result.signature


def _candidates(candidates: Sequence[UnscoredCandidate], rows: Iterator[dict[str, float]]) -> Iterator[ScoredCandidate]:
    for candidate in candidates:
        scores = next(rows)
        mean = sum(scores.values()) / len(scores)
        yield ScoredCandidate(candidate.text, mean, candidate.origin, scores if len(scores) > 1 else {})
