"""Which of a source's candidate translations is chosen and which rejected, and which sources yield no pair.

Text and scores only: the candidates come from `decoding`, the scores from `metrics`.
"""

import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

REFERENCE, SAMPLE = "reference", "sample"


@dataclass(frozen=True)
class Sentence:
    """A sentence to be translated, and its reference."""

    id: str
    direction: str
    source: str
    reference: str


@dataclass(frozen=True)
class Candidate:
    """A translation, its score, and where it came from."""

    text: str
    score: float
    origin: str


@dataclass(frozen=True)
class Pair:
    """The best and the worst candidate, or the reason why there is no pair."""

    chosen: Candidate | None = None
    rejected: Candidate | None = None
    dropped: str = ""


@dataclass
class Triples:
    """Rows of a preference data set, and what became of the other sources."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Direction to reason to number."""
    chosen_is_reference: Counter[str] = field(default_factory=Counter)
    """By direction."""


def pair(candidates: Sequence[Candidate], min_margin: float) -> Pair:
    """The candidate of the highest score against that of the lowest.

    A text counts once; of equal scores the reference wins, then the earlier. No pair, for these reasons in turn:
    one_candidate (fewer than two different texts), empty_chosen, empty_rejected, equal_texts (alike but for white
    space or Unicode form), tie, small_margin (scores less than `min_margin` points apart).
    """
    distinct: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda item: item.origin != REFERENCE):
        distinct.setdefault(candidate.text, candidate)
    if len(distinct) < 2:
        return Pair(dropped="one_candidate")
    chosen = max(distinct.values(), key=lambda item: item.score)
    rejected = min((item for item in distinct.values() if item is not chosen), key=lambda item: item.score)
    reasons = {
        "empty_chosen": not chosen.text.strip(),
        "empty_rejected": not rejected.text.strip(),
        "equal_texts": _bare(chosen.text) == _bare(rejected.text),
        "tie": chosen.score == rejected.score,
        "small_margin": chosen.score - rejected.score < min_margin,
    }
    return Pair(chosen, rejected, next((reason for reason, holds in reasons.items() if holds), ""))


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def triples(sources: Sequence[Sentence], candidates: Sequence[Sequence[Candidate]], min_margin: float) -> Triples:
    """A row for each source whose candidates make a pair; all candidates are kept in it."""
    result = Triples()
    for source, found in zip(sources, candidates, strict=True):
        made = pair(found, min_margin)
        if made.dropped or made.chosen is None or made.rejected is None:
            result.dropped.setdefault(source.direction, Counter())[made.dropped] += 1
            continue
        result.rows.append(_row(source, made.chosen, made.rejected, found))
        result.chosen_is_reference[source.direction] += made.chosen.origin == REFERENCE
    return result


def _row(source: Sentence, chosen: Candidate, rejected: Candidate, candidates: Iterable[Candidate]) -> dict[str, Any]:
    return {
        "id": source.id,
        "source": source.source,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "direction": source.direction,
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "candidates": [asdict(candidate) for candidate in candidates],
    }


def choose_sources(
    rows: Mapping[str, Sequence[Sentence]], count: int, seed: int, taken: frozenset[str] = frozenset()
) -> tuple[list[Sentence], dict[str, Counter[str]]]:
    """`count` sources of each direction, drawn by the seed and left in the corpus's order; and the rows left out.

    Left out are repeated sources, and those in `taken`: what training uses must not be held out as well.
    """
    chosen: list[Sentence] = []
    dropped: dict[str, Counter[str]] = {}
    for direction, found in rows.items():
        fresh = {row.source: row for row in reversed(found)}  # the first of equal ones stays
        free = [row for row in found if fresh[row.source] is row and row.source not in taken]
        shared = sum(source in taken for source in fresh)
        dropped[direction] = +Counter({"repeated_source": len(found) - len(fresh), "source_in_training": shared})
        picked = random.Random(f"{seed} {direction}").sample(range(len(free)), min(count, len(free)))
        chosen += [free[place] for place in sorted(picked)]
    return chosen, dropped
