"""The rows of a corpus, from any source: sentence pairs and documents, and a row as a line of JSON. Reads and cleans nothing."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from alma_pipeline.errors import PipelineError

Item = TypeVar("Item")
encode_json = json.JSONEncoder(ensure_ascii=False).encode
"""Built once: `json.dumps` builds a new encoder on every call."""


@dataclass(frozen=True)
class SentencePair:
    """A sentence and its translation."""

    id: str
    direction: str
    """Source and target language, as in `de-en`."""
    source: str
    target: str


@dataclass(frozen=True)
class Document:
    """A monolingual document, or a sentence pair joined into one line."""

    id: str
    language: str
    """A language code, or two in the order of the line (`de-en`)."""
    text: str


CorpusRow = SentencePair | Document
AnyRow = TypeVar("AnyRow", SentencePair, Document)


class Stream(Generic[Item]):
    """The items a reader yields, in order, with the position in its rows, and what became of those without an item."""

    def __init__(
        self,
        items: Iterator[Item | None],
        skip: int = 0,
        dropped: Counter[str] | None = None,
        left_out: Counter[str] | None = None,
        changed: Counter[str] | None = None,
    ) -> None:
        """`items`: one per row after the first `skip`; None for a row that yields no item."""
        self._items = items
        self.position = skip
        """Rows read, including those that yielded no item."""
        self.dropped = Counter[str]() if dropped is None else dropped
        """Rows that the reader dropped before it gave them a position, counted from the first row, by reason."""
        self.left_out = Counter[str]() if left_out is None else left_out
        """Rows after the first `skip` that yielded no item, by reason; `rejected`: they cannot be read."""
        self.changed = Counter[str]() if changed is None else changed
        """Rows after the first `skip` that were changed in reading or were odd, by reason."""

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.position += 1
            if item is not None:
                yield item


def account(what: str, read: int, kept: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    """The account of a text: `read`, `kept`, `dropped` by reason, and `rejected`, which `dropped` holds under that name.

    Raises PipelineError if a row is missing from it.
    """
    reasons = {name: count for name, count in dropped.items() if count and name != "rejected"}
    rejected = dropped.get("rejected", 0)
    if read != kept + sum(reasons.values()) + rejected:
        raise PipelineError(
            f"{what}: {read:,} rows were read, but {kept:,} kept, {rejected:,} rejected and {reasons or 'none'} dropped are not "
            "as many: rows were lost or counted twice, which is a fault of this program"
        )
    return {"read": read, "kept": kept, "dropped": reasons, "rejected": rejected}


def directions(languages: Iterable[str]) -> list[str]:
    """Both directions between English and each other language."""
    return [f"{one}-{other}" for code in languages if code != "en" for one, other in ((code, "en"), ("en", code))]


def texts_of(row: CorpusRow) -> tuple[str, ...]:
    """The text of a document, or both texts of a pair."""
    return (row.text,) if isinstance(row, Document) else (row.source, row.target)


def part_of(row: CorpusRow) -> str:
    """The name a row is counted under: a document's language, a pair's direction."""
    return row.language if isinstance(row, Document) else row.direction


def row_of(value: dict[str, str]) -> CorpusRow:
    """The inverse of `line_of`, from decoded JSON."""
    return Document(**value) if "text" in value else SentencePair(**value)


def line_of(row: CorpusRow) -> bytes:
    """A row as a line of JSON."""
    return (encode_json(vars(row)) + "\n").encode()
