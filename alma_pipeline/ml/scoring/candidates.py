"""Which of a source's candidate translations is chosen and which rejected, and which sources yield no pair.

Text and scores only: the candidates come from `decoding`, the scores from `metrics`.
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
    """A sentence to be translated, and its reference."""

    id: str
    direction: str
    source: str
    reference: str


@dataclass(frozen=True)
class ScoredCandidate:
    """A translation, its score, and where it came from."""

    text: str
    score: float
    origin: str
    scores: dict[str, float] = field(default_factory=dict)
    """By scorer; `score` is their mean. Empty where there is one scorer only."""


@dataclass(frozen=True)
class PairChoice:
    """The best and the worst candidate, or the reason why there is no pair."""

    chosen: ScoredCandidate | None = None
    rejected: ScoredCandidate | None = None
    dropped: str = ""


@dataclass
class Triples:
    """Rows of a preference data set, and what became of the other sources."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    """The other sources with all their candidates, and under `dropped` the reason."""
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Direction to reason to number."""
    chosen_is_reference: Counter[str] = field(default_factory=Counter)
    """By direction."""
    chosen_from: Counter[str] = field(default_factory=Counter)
    """By origin."""
    rejected_from: Counter[str] = field(default_factory=Counter)


def choose_pair(candidates: Sequence[ScoredCandidate], min_margin: float, rule: str = "best_worst") -> PairChoice:
    """Two of the candidates by a rule, or the reason why there is no pair.

    best_worst (arXiv 2401.08417, sec. 3.1): the highest score against the lowest. margin: the highest score against the
    highest of those at least `min_margin` points below it, the hardest that is clearly worse. reference (X-ALMA, arXiv
    2410.03115, as its reviews tell): the reference, whatever its score, against the lowest score of the others.

    A text counts once; of equal scores the reference wins, then the earlier. No pair, for these reasons in turn:
    one_candidate (fewer than two different texts), empty_chosen, empty_rejected, equal_texts (alike but for white
    space or Unicode form), and, unless the rule is `reference`: tie, small_margin (scores less than `min_margin` apart).
    Raises ValueError for `reference` without one.
    """
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
    """A row for each source whose candidates make a pair, and one for each other; all candidates are kept in both."""
    result = Triples()
    for source, found in zip(sources, candidates, strict=True):
        made = choose_pair(found, min_margin, rule)
        if made.dropped or made.chosen is None or made.rejected is None:
            result.dropped.setdefault(source.direction, Counter())[made.dropped] += 1
            kept = {"id": source.id, "source": source.source, "direction": source.direction, "dropped": made.dropped}
            result.left.append(kept | {"candidates": [_kept(candidate) for candidate in found]})
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
    """What a row says of a candidate; the scores behind its score where there are several."""
    values = asdict(candidate)
    return values if candidate.scores else {name: value for name, value in values.items() if name != "scores"}


def choose_sources(
    rows: Mapping[str, Sequence[SourceSentence]], count: int, seed: int, taken: frozenset[str] = frozenset()
) -> tuple[list[SourceSentence], dict[str, Counter[str]]]:
    """`count` sources of each direction, drawn by the seed and left in the corpus's order; and the rows left out.

    Left out are repeated sources, and those in `taken`: what training uses must not be held out as well.
    """
    chosen: list[SourceSentence] = []
    dropped: dict[str, Counter[str]] = {}
    for direction, found in rows.items():
        fresh = {row.source: row for row in reversed(found)}  # the first of equal ones stays
        free = [row for row in found if fresh[row.source] is row and row.source not in taken]
        shared = sum(source in taken for source in fresh)
        dropped[direction] = +Counter({"repeated_source": len(found) - len(fresh), "source_in_training": shared})
        picked = random.Random(f"{seed} {direction}").sample(range(len(free)), min(count, len(free)))
        chosen += [free[place] for place in sorted(picked)]
    return chosen, dropped


CHRF = "chrf"


@dataclass(frozen=True)
class UnscoredCandidate:
    """A candidate before it has a score."""

    text: str
    origin: str


def score_candidates(
    job: Job, names: Sequence[str], sources: Sequence[SourceSentence], drafts: Sequence[Sequence[UnscoredCandidate]]
) -> tuple[list[list[ScoredCandidate]], dict[str, str]]:
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


def _column(job: Job, name: str, pairs: list[tuple[SourceSentence, UnscoredCandidate]]) -> tuple[list[float], str]:
    if name == CHRF:
        return [sentence_chrf(draft.text, source.reference) for source, draft in pairs], "sentence chrF2, sacrebleu"
    segments = [CometSegment(source.source, draft.text, source.reference) for source, draft in pairs]
    cache = SegmentCache(job.cache / "segment_scores.db")
    scorer = comet.with_local_model(job.config.scorers[name], job.files)
    made = comet.score(scorer, segments, job.hardware, cache, lambda done, total: job.log(done, total, {}))
    return made.scores, made.signature


def _candidates(drafts: Sequence[UnscoredCandidate], rows: Iterator[dict[str, float]]) -> Iterator[ScoredCandidate]:
    for draft in drafts:
        scores = next(rows)
        mean = sum(scores.values()) / len(scores)
        yield ScoredCandidate(draft.text, mean, draft.origin, scores if len(scores) > 1 else {})
