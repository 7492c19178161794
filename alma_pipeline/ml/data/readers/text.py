"""A source's text as streams of sentences, documents and preferences, that can go on from any row. Cleans nothing."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import columns, formats, hub
from alma_pipeline.ml.data.readers.columns import ColumnNames, Triple
from alma_pipeline.ml.data.readers.formats import RawRow
from alma_pipeline.ml.data.readers.lines import BadRow
from alma_pipeline.ml.data.rows import Document, Item, SentencePair, Stream
from alma_pipeline.schema import Language, Source

UNPACKED_RATIO = 3
"""Bytes of text in a byte of a packed file, for the progress bar alone (usual for gzip and zstd on text)."""


@dataclass(frozen=True)
class TextReader:
    """What a source holds, for the languages of a node."""

    source: Source
    languages: dict[str, Language]
    places: Mapping[str, str]
    """SHA-256 to path."""
    rejects: Callable[[str, str, Any], None]
    """Hears of a row that cannot be read: where, what is wrong, and the row."""
    codes: Sequence[str] = ()
    """Of languages beside these that there are: a row in one of them is passed over, in another it is an error."""

    apart: ClassVar[None] = None
    """Such text keeps no rows out of training itself."""

    def pairs(self, direction: str, skip: int = 0) -> Stream[SentencePair]:
        """Sentence pairs of one direction, without the first `skip` rows."""
        shape, part = self._shape, self._part(direction)

        def convert(row: Mapping[str, Any], number: int) -> SentencePair | None:
            found = columns.pair(row, direction, part, shape)
            return SentencePair(f"{direction}:{number}", direction, *found) if found else None

        return self._stream(direction, convert, skip)

    def documents(self, code: str, skip: int = 0) -> Stream[Document]:
        """Documents of one language."""
        shape = self._shape

        def convert(row: Mapping[str, Any], number: int) -> Document:
            return Document(f"{code}:{number}", code, columns.document(row, shape))

        return self._stream(code, convert, skip)

    def triples(self, direction: str, scorer: str) -> Stream[tuple[int, Triple]]:
        """Preferences of one direction, each with the number of its row."""
        shape = self._shape

        def convert(row: Mapping[str, Any], number: int) -> tuple[int, Triple] | None:
            found = columns.triple(row, direction, shape, scorer)
            return (number, found) if found else None

        return self._stream(direction, convert)

    def outputs(self, direction: str) -> Stream[tuple[str | None, str]]:
        """What a system made of sentences in one direction: (source, output), None for the source where a line is just text."""
        shape, part = self._shape, self._part(direction)

        def convert(row: Mapping[str, Any], number: int) -> tuple[str | None, str] | None:
            return columns.output(row, direction, part, shape)

        return self._stream(direction, convert)

    def bytes(self, part: str) -> int:
        """Roughly how much text there is; 0 where nothing is known before it is read."""
        if self.source.reader != "files":
            return 0
        sizes = [(name, Path(self.places[digest]).stat().st_size) for name, digest in self._files(part).items()]
        return sum(size * (UNPACKED_RATIO if name.endswith((".gz", ".bz2", ".xz", ".zst")) else 1) for name, size in sizes)

    @property
    def _shape(self) -> ColumnNames:
        return ColumnNames(self.source.columns, self.languages, frozenset((*self.languages, *self.codes)))

    def _stream(self, part: str, convert: Callable[[Mapping[str, Any], int], Item | None], skip: int = 0) -> Stream[Item]:
        return Stream(self._items(part, convert, skip), skip)

    def _items(self, part: str, convert: Callable[[Mapping[str, Any], int], Item | None], skip: int) -> Iterator[Item | None]:
        """One for each row; None for a row that cannot be read and for one of another direction."""
        for number, row in enumerate(self._rows(part, skip), start=skip + 1):
            try:
                item = convert(row.parse(row.raw), number)
            except BadRow as error:
                self.rejects(row.where, str(error), row.raw)
                item = None
            yield item

    def _rows(self, part: str, skip: int) -> Iterator[RawRow]:
        """Raises UserError for a reader that holds no text (candidates)."""
        if self.source.reader == "hub":
            return hub.rows(self.source, part, self.languages, skip)
        if self.source.reader == "files":
            return itertools.islice(self._file_rows(part), skip, None)
        raise UserError(f"reader={self.source.reader}: no text of {part} can be read there; expected cldr, hub or files")

    def _file_rows(self, part: str) -> Iterator[RawRow]:
        found = self._files(part)
        sides = {name.partition("/")[2].split(".")[0]: Path(self.places[digest]) for name, digest in found.items() if "/" in name}
        if sides:
            one, other = part.split("-")
            yield from formats.paired_rows(sides[one], sides[other], (one, other))
            return
        for name, digest in found.items():
            yield from formats.rows(name, Path(self.places[digest]), self.source.columns)

    def _part(self, part: str) -> str:
        """What the files that hold a part hold: a direction, a language or all."""
        return next((name.split("/")[0].split(".")[0] for name in self._files(part)), part)

    def _files(self, part: str) -> dict[str, str]:
        """Name to digest of the files that hold a part, in the order of their numbers."""
        codes = part.split("-")
        names = [part, "-".join(sorted(codes)), *(code for code in codes if code != "en"), "all"]
        for wanted in names:
            found = {name: digest for name, digest in self.source.files.items() if name.split("/")[0].split(".")[0] == wanted}
            if found:
                return dict(sorted(found.items(), key=lambda item: _number(item[0])))
        if self.source.reader == "files":
            raise UserError(f"no file holds {part}; there is {', '.join(self.source.files) or 'none'}")
        return {}


def _number(name: str) -> int:
    second = name.split(".")[1]
    return int(second) if second.isdigit() else 0
