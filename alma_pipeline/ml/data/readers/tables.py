"""Reads the rows of TSV and CSV files, as cells under the names of their columns. Knows no language."""

import csv
import functools
import itertools
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.lines import decode_utf8, lines
from alma_pipeline.ml.data.readers.raw_rows import BadRow, RawRow, unreadable

SEPARATORS = (b",", b";", b"\t")
STATED = re.compile(rb'"?sep=([^\w"])"?', re.IGNORECASE)
"""A first line that names the separator, as Excel writes and reads it."""
EXCEL_QUOTES = re.compile(rb'"(?:[^"]*"")+[^"]*"')
"""A cell in which a spreadsheet has doubled the quotes."""
MOST_LINES = 10_000
"""In one row of CSV; beyond, a quote was not closed."""
SWALLOWED = 0.9
"""Share of the lines inside a cell that look like rows, above which they are taken for rows (our choice)."""
csv.field_size_limit(2**27)  # the default rejects documents above 128 kB


class Record(NamedTuple):
    """One row of CSV."""

    line: int
    """The line it begins on, from 1."""
    raw: bytes
    """That line."""
    cells: list[bytes]
    lines: int
    problem: str = ""
    """Why it cannot be read."""


def tsv_rows(path: Path, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """Rows of cells between tabs; a quote is text, as bitext is distributed. If `columns` has numbers, there is no header."""
    header: tuple[str, ...] | None = None
    without_header = numbered(columns)
    for number, line in enumerate(lines(path), start=1):
        cells = line.split(b"\t")
        if header is None and not without_header:
            header = _header(f"{path}:{number}", cells) if line.strip() else None
            continue
        doubled = b'""' in line and any(map(EXCEL_QUOTES.fullmatch, cells))
        noticed = ("doubled_quotes",) if doubled else ()
        yield RawRow(f"{path}:{number}", cells, functools.partial(_record, header), noticed, header)


def csv_rows(path: Path, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """Rows of cells between commas, semicolons or tabs, quoted where needed. If `columns` has numbers, there is no header."""
    header: tuple[str, ...] | None = None
    without_header = numbered(columns)
    for record in _records(path, max(map(int, columns.values())) if without_header else 0):
        where = f"{path}:{record.line}"
        if header is None and not without_header:
            if record.problem:
                raise UserError(f"{where}: {record.problem}")
            header = _header(where, record.cells) if record.cells else None
            continue
        if record.problem:
            yield unreadable(where, record.raw, record.problem)
        else:
            noticed = ("line_breaks",) if record.lines > 1 else ()
            yield RawRow(where, record.cells, functools.partial(_record, header), noticed, header)


def numbered(columns: Mapping[str, str]) -> bool:
    """Whether columns are named by their numbers, as in a table without a header."""
    return bool(columns) and all(value.isdigit() for value in columns.values())


def _header(where: str, cells: list[bytes]) -> tuple[str, ...]:
    """The names of the columns; those of the same name get numbers, so that neither passes for the other."""
    try:
        names = [decode_utf8(cell).strip() for cell in cells]
    except BadRow as error:
        raise UserError(f"{where}: {error}") from None
    return tuple(name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1))


def _record(header: tuple[str, ...] | None, cells: list[bytes]) -> Mapping[str, Any]:
    names = header or [str(number) for number in range(1, len(cells) + 1)]
    if len(cells) != len(names):
        raise BadRow(f"{len(cells)} columns, expected {len(names)} ({', '.join(names)})")
    return dict(zip(names, map(decode_utf8, cells), strict=True))


def _records(path: Path, columns: int) -> Iterator[Record]:
    """The rows of CSV. One that is broken costs its first line: the next one is read. `columns`: at least as many."""
    stream = lines(path)
    first = next(stream, b"")
    start, stated = 1, STATED.fullmatch(first)
    if stated:
        start, first = 2, next(stream, b"")
    separator = stated[1] if stated else _separator(first, columns)
    source = _Lines(itertools.chain([first], stream), start)
    # The first row tells how many cells a row has, and whether spaces follow its separators.
    width, tight = 0, separator + b" " not in first
    while source.more():
        reader = csv.reader(source, strict=True, delimiter=separator.decode("latin-1"))
        try:
            for cells in reader:
                width = width or len(cells)
                if _swallows(source.taken, separator, width, tight):
                    raise csv.Error(f"a cell runs to line {source.line + len(source.taken) - 1}, over lines that look like rows")
                found = [cell.encode("latin-1") for cell in cells]
                yield Record(source.line, source.taken[0], found, len(source.taken))
                source.accept()
        except csv.Error as error:
            problem = f"invalid CSV from here on ({error}); expected every quote to be closed, and quotes inside to be doubled"
            yield Record(source.line, source.taken[0], [], 1, problem)
            source.put_back()


class _Lines:
    """Lines as `csv` wants them, and those of the row being read, which can be put back."""

    def __init__(self, stream: Iterator[bytes], line: int) -> None:
        self._stream, self._waiting = stream, deque[bytes]()
        self.taken: list[bytes] = []
        """Lines of the row being read."""
        self.line = line
        """The number of the first of them."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MOST_LINES:
            raise csv.Error(f"a cell of {MOST_LINES:,} lines and more")
        line = self._waiting.popleft() if self._waiting else next(self._stream)
        self.taken.append(line)
        # Latin-1 preserves every byte, so text that is not UTF-8 fails its own row only.
        return f"{line.decode('latin-1')}\n"

    def more(self) -> bool:
        """Whether there is another line."""
        if not self._waiting:
            self._waiting.extend(itertools.islice(self._stream, 1))
        return bool(self._waiting)

    def accept(self) -> None:
        """The lines taken were a row."""
        self.line += len(self.taken)
        self.taken.clear()

    def put_back(self) -> None:
        """The first line taken was no row; the others are read again."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        self.line += 1
        self.taken.clear()


def _separator(first: bytes, columns: int) -> bytes:
    """The separator of the cells in the first line: the comma, unless another one alone makes a table of it."""
    counts = {separator: len(_cells(first, separator)) for separator in SEPARATORS}
    enough = [separator for separator, count in counts.items() if count >= max(2, columns)]
    return enough[0] if len(enough) == 1 else b","


def _cells(line: bytes, separator: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("latin-1")], delimiter=separator.decode("latin-1")), [])
    except csv.Error:
        return []


def _swallows(taken: list[bytes], separator: bytes, width: int, tight: bool) -> bool:
    """Whether the lines of a row look like rows themselves: then a stray quote has made one cell of them.

    The first and the last line are partly outside the cell; they count where only one lies between them.
    """
    if width < 2 or len(taken) < 3:
        return False
    inside = taken[1:-1] if len(taken) > 3 else taken
    alike = sum(line.count(separator) == width - 1 and not (tight and separator + b" " in line) for line in inside)
    return alike >= SWALLOWED * len(inside)
