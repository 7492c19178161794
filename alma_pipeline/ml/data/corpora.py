"""What text a corpus holds, split and mixed as the recipe says. Text only: `blocks` turns it into token arrays.

CLDR is made here; files and hub data sets are read by `reading` and `preparation`.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.cldr import Cldr, check_revision
from alma_pipeline.ml.data.mixing import drawn
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.schema import Language, Source

Row = TypeVar("Row")


@dataclass(frozen=True)
class SentencePair:
    """A sentence and its translation."""

    id: str
    direction: str
    """`de-en`: source language, target language."""
    source: str
    target: str


@dataclass(frozen=True)
class Line:
    """A monolingual document, or a sentence pair joined into one line."""

    id: str
    language: str
    """A code, or two in the order of the line (`de-en`)."""
    text: str


@dataclass(frozen=True)
class Gathered(Generic[Row]):
    """Rows, and what was left out or changed on the way, by reason."""

    rows: list[Row]
    dropped: Counter[str] = field(default_factory=Counter)
    newlines: int = 0
    """Sentences in which line breaks became spaces."""


def open_cldr(sources: Iterable[Source], split: str, languages: Mapping[str, Language], seed: int) -> Cldr:
    """The CLDR text of a node, when every source it reads is CLDR of the installed release."""
    for source in sources:
        if source.reader != "cldr":
            raise UserError(
                f"reader={source.reader} (repo {source.repo or 'null'}) cannot be read into a corpus in this version; "
                "the reader there is: cldr (data=cldr)"
            )
        if source.split != split:
            raise UserError(f"split={source.split} of a cldr source: expected {split} for this form of corpus")
        check_revision(source)
    if "en" not in languages or len(languages) < 2:
        found = ", ".join(languages) or "none"
        raise UserError(f"a corpus needs English (en) and at least one other language; found {found}")
    return Cldr({code: language.locale for code, language in languages.items()}, seed)


def directions(languages: Iterable[str]) -> list[str]:
    """Every language into English and out of it."""
    return [f"{one}-{other}" for code in languages if code != "en" for one, other in ((code, "en"), ("en", code))]


def sentence_pairs(text: Cldr, wanted: Iterable[str], split: str, limit: int | None) -> Gathered[SentencePair]:
    """Up to `limit` pairs of every direction in `wanted`, the directions in turn, so that any beginning holds all of them."""
    columns = []
    dropped: Counter[str] = Counter()
    newlines = 0
    for direction in wanted:
        from_code, to_code = direction.split("-")
        found, lost = text.pairs(from_code, to_code, split, limit)
        dropped += lost
        column = []
        for pair in found:
            (source, one), (target, other) = one_line(pair.source), one_line(pair.target)
            newlines += one + other
            column.append(SentencePair(f"{direction}:{pair.id}", direction, source, target))
        columns.append(column)
    rows = [row for turn in itertools.zip_longest(*columns) for row in turn if row is not None]
    return Gathered(rows, dropped, newlines)


def documents(text: Cldr, languages: Iterable[str], split: str, limit: int | None) -> dict[str, Gathered[Line]]:
    """Up to `limit` documents of every language."""
    result = {}
    for code in languages:
        found, dropped = text.documents(code, split, limit)
        result[code] = Gathered([Line(document.id, code, document.text) for document in found], dropped)
    return result


def joined_pairs(text: Cldr, languages: Iterable[str], split: str, limit: int | None, seed: int) -> Gathered[Line]:
    """Pairs as one line each, either side first with equal chance, parted by a space (X-ALMA's pseudo-monolingual
    text: `A B` or `B A`, no tags and no prompt). Language pairs take turns."""
    draw = random.Random(f"join/{split}/{seed}")
    columns = []
    dropped: Counter[str] = Counter()
    for code in languages:
        if code != "en":
            found, lost = text.pairs(code, "en", split, limit)
            dropped += lost
            columns.append([_joined(pair.id, (code, pair.source), ("en", pair.target), draw.random() < 0.5) for pair in found])
    rows = [row for turn in itertools.zip_longest(*columns) for row in turn if row is not None]
    return Gathered(rows, dropped)


def _joined(name: str, one: tuple[str, str], other: tuple[str, str], swap: bool) -> Line:
    first, second = (other, one) if swap else (one, other)
    order = f"{first[0]}-{second[0]}"
    return Line(f"{order}:{name}", order, f"{first[1]} {second[1]}")


def interleave(streams: Mapping[str, list[Row]], shares: Mapping[str, float], seed: int) -> list[Row]:
    """One stream drawn from several by their shares, until each has been gone through; one that ends sooner starts
    again from its beginning. Raises UserError where no stream has a share.
    """
    taken = Counter[str]()
    result = []
    for name in drawn({name: len(rows) for name, rows in streams.items()}, shares, seed):
        result.append(streams[name][taken[name] % len(streams[name])])
        taken[name] += 1
    return result
