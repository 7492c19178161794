"""The reader of files and hub data sets: streams sentence pairs, documents and preferences, from any row on. Cleans nothing."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import columns, formats, hub
from alma_pipeline.ml.data.readers.columns import ColumnNames, NoColumn, Triple
from alma_pipeline.ml.data.readers.raw_rows import BadRow, RawRow, printable
from alma_pipeline.ml.data.rows import Document, Item, SentencePair, Stream
from alma_pipeline.schema import Language, Source

UNPACKED_RATIO = 3
"""Bytes of text per byte of a compressed file, for the progress bar only (typical of gzip and zstd on text)."""


@dataclass(frozen=True)
class TextReader:
    """Reads one source, for the languages of a node."""

    source: Source
    languages: dict[str, Language]
    paths: Mapping[str, str]
    """SHA-256 of each file to its path."""
    rejects: Callable[[str, str, Any], None]
    """Called for each unreadable row: its place, the problem, the row."""
    codes: Sequence[str] = ()
    """Other known languages: a row in one of these is skipped; a row in an unknown language is an error."""
    setting: str = ""
    """The key of the source, such as `data.parallel`, for messages."""

    held_out: ClassVar[None] = None
    """These sources keep no rows out of training themselves."""

    def pairs(self, direction: str, skip: int = 0) -> Stream[SentencePair]:
        """Sentence pairs of one direction, after the first `skip` rows."""
        names, part = self._columns(direction), self._part(direction)

        def convert(row: Mapping[str, Any], number: int) -> SentencePair | None:
            found = columns.pair(row, direction, part, names)
            return SentencePair(f"{direction}:{number}", direction, *found) if found else None

        return self._stream(direction, convert, names, skip)

    def documents(self, code: str, skip: int = 0) -> Stream[Document]:
        """Documents of one language, after the first `skip` rows."""
        names = self._columns(code)

        def convert(row: Mapping[str, Any], number: int) -> Document:
            return Document(f"{code}:{number}", code, columns.document(row, names))

        return self._stream(code, convert, names, skip)

    def check_languages(self, codes: Sequence[str]) -> None:
        """Raise UserError for a data set that has the same documents for each of several languages."""
        if len(codes) > 1 and self.source.reader == "hub" and "all" in map(self._part, codes):
            raise UserError(
                f"{self.source.repo}: the same documents would be read as {', '.join(codes)}; expected {{lang}} in the "
                f"configuration's name, as in '{self.setting or 'data.mono'}.config={{lang}}'"
            )

    def triples(self, direction: str, scorer: str) -> Stream[tuple[int, Triple]]:
        """Preferences of one direction, each with its row number. `scorer`: whose scores rank candidates (`ranked_triple`)."""
        names = self._columns(direction)

        def convert(row: Mapping[str, Any], number: int) -> tuple[int, Triple] | None:
            found = columns.triple(row, direction, names, scorer)
            return (number, found) if found else None

        return self._stream(direction, convert, names)

    def outputs(self, direction: str) -> Stream[tuple[str | None, str]]:
        """A system's outputs in one direction, as (source, output); the source is None for lines of plain text."""
        names, part = self._columns(direction), self._part(direction)

        def convert(row: Mapping[str, Any], number: int) -> tuple[str | None, str] | None:
            return columns.output(row, direction, part, names)

        return self._stream(direction, convert, names)

    def bytes(self, part: str) -> int:
        """Approximate size of the text; 0 if unknown before reading."""
        if self.source.reader != "files":
            return 0
        sizes = [(name, Path(self.paths[digest]).stat().st_size) for name, digest in self._files(part).items()]
        return sum(size * (UNPACKED_RATIO if name.endswith((".gz", ".bz2", ".xz", ".zst")) else 1) for name, size in sizes)

    def _columns(self, part: str) -> ColumnNames:
        example = {code: str(number) for number, code in enumerate(part.split("-"), start=1)} if "-" in part else {"text": "1"}
        known = frozenset((*self.languages, *self.codes))
        return ColumnNames(self.source.columns, self.languages, known, self.setting, example)

    def _stream(
        self, part: str, convert: Callable[[Mapping[str, Any], int], Item | None], names: ColumnNames, skip: int = 0
    ) -> Stream[Item]:
        left_out = Counter[str]()
        items = self._items(part, convert, skip, left_out, names.changed)
        return Stream(items, skip, left_out=left_out, changed=names.changed)

    def _items(
        self,
        part: str,
        convert: Callable[[Mapping[str, Any], int], Item | None],
        skip: int,
        left_out: Counter[str],
        changed: Counter[str],
    ) -> Iterator[Item | None]:
        """One item per row; None for an unreadable row and for a row of another direction, which `left_out` counts."""
        for number, row in enumerate(self._rows(part, skip), start=skip + 1):
            changed.update(row.noticed)
            item = None
            try:
                item = convert(row.parse(row.raw), number)
                left_out["other_direction"] += item is None
            except BadRow as error:
                if row.header and isinstance(error, NoColumn):  # all rows of a table have the same columns
                    raise UserError(printable(f"{row.where}: {error}")) from None
                self.rejects(row.where, printable(str(error)), row.raw)
                left_out["rejected"] += 1
            yield item

    def _rows(self, part: str, skip: int) -> Iterator[RawRow]:
        """Raises UserError for `candidates`, which is no reader of text."""
        if self.source.reader == "hub":
            return hub.rows(self.source, part, self.languages, skip)
        if self.source.reader == "files":
            return itertools.islice(self._file_rows(part), skip, None)
        raise UserError(f"reader={self.source.reader} has no text of {part} to read; expected cldr, hub or files")

    def _file_rows(self, part: str) -> Iterator[RawRow]:
        found = self._files(part)
        # Names such as `de-en/de.txt` and `de-en/de.0.txt` are one text per side, or a shard of it.
        shards: dict[int, dict[str, Path]] = {}
        for name, digest in found.items():
            if "/" in name:
                shards.setdefault(_number(name), {})[name.partition("/")[2].split(".")[0]] = Path(self.paths[digest])
        if shards:
            one, other = part.split("-")
            for sides in shards.values():
                yield from formats.paired_rows(sides[one], sides[other], (one, other))
            return
        languages = {code: self.languages[code] for code in part.split("-") if code in self.languages}
        for name, digest in found.items():
            yield from formats.rows(name, Path(self.paths[digest]), self.source.columns, languages)

    def _part(self, part: str) -> str:
        """What the text with this part contains: a direction, a language or all."""
        if self.source.reader == "hub":
            return hub.holds(self.source, part, self.languages)
        return next((name.split("/")[0].split(".")[0] for name in self._files(part)), part)

    def _files(self, part: str) -> dict[str, str]:
        """Name to digest of the files that contain a part, ordered by their numbers.

        A direction's own files come first, then those of its language, of the opposite direction and of all directions.
        """
        codes = part.split("-")
        candidates = [part, *(code for code in codes if code != "en"), "-".join(reversed(codes)), "all"]
        for wanted in candidates:
            found = {name: digest for name, digest in self.source.files.items() if name.split("/")[0].split(".")[0] == wanted}
            if found:
                return dict(sorted(found.items(), key=lambda item: _number(item[0])))
        if self.source.reader == "files":
            raise UserError(f"no file with text of {part}; found {', '.join(self.source.files) or 'no files'}")
        return {}


def _number(name: str) -> int:
    second = name.split(".")[1]
    return int(second) if second.isdigit() else 0
