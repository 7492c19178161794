"""The rows of a corpus, whatever they were read from: sentence pairs and documents. Reads nothing, cleans nothing."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
encode_json = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: `json.dumps` makes an encoder for every row."""


@dataclass(frozen=True)
class SentencePair:
    """A sentence and its translation."""

    id: str
    direction: str
    """`de-en`: source language, target language."""
    source: str
    target: str


@dataclass(frozen=True)
class Document:
    """A monolingual document, or a sentence pair joined into one line."""

    id: str
    language: str
    """A code, or two in the order of the line (`de-en`)."""
    text: str


CorpusRow = SentencePair | Document
AnyRow = TypeVar("AnyRow", SentencePair, Document)


class Stream(Generic[Item]):
    """What a reader makes of its rows, in their order."""

    def __init__(self, items: Iterator[Item | None], skip: int = 0, dropped: Counter[str] | None = None) -> None:
        """`items`: one for each row after the first `skip`; None where nothing is made of the row."""
        self._items = items
        self.position = skip
        """Rows read, those without an item included."""
        self.dropped = Counter[str]() if dropped is None else dropped
        """Rows that the reader itself left out, from the first one on, by reason."""

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.position += 1
            if item is not None:
                yield item


def directions(languages: Iterable[str]) -> list[str]:
    """Every language into English and out of it."""
    return [f"{one}-{other}" for code in languages if code != "en" for one, other in ((code, "en"), ("en", code))]


def texts_of(row: CorpusRow) -> tuple[str, ...]:
    """A document's text, or a pair's two."""
    return (row.text,) if isinstance(row, Document) else (row.source, row.target)


def part_of(row: CorpusRow) -> str:
    """What a row is counted under: the language of a document, the direction of a pair."""
    return row.language if isinstance(row, Document) else row.direction


def row_of(value: dict[str, str]) -> CorpusRow:
    """A row as it was before `line_of`."""
    return Document(**value) if "text" in value else SentencePair(**value)


def line_of(row: CorpusRow) -> bytes:
    """A row as a line of JSON."""
    return (encode_json(vars(row)) + "\n").encode()
