"""Reads the rows of a file: JSON lines, a JSON array, TSV, CSV, Parquet, TMX, plain text, or a pair of plain texts.

A row maps column names to values; `columns` interprets them.
"""

import csv
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pyarrow
import pyarrow.parquet

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.lines import (
    MAX_SHOWN,
    UNPACK_ERRORS,
    BadRow,
    check_is_text,
    damaged_file,
    decode_utf8,
    lines,
    open_bytes,
)

FORMAT = re.compile(r"\.(jsonl|json|tsv|csv|parquet|tmx|txt)(?:\.(?:gz|bz2|xz|zst))?$")
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
csv.field_size_limit(2**27)  # the default rejects documents above 128 kB


class RawRow(NamedTuple):
    """A row as read from its file, not parsed yet."""

    where: str
    """`path:12`, or the row's number in a format without lines."""
    raw: Any
    parse: Callable[[Any], Mapping[str, Any]]
    """Raises BadRow."""


def rows(name: str, path: Path, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """The rows of one file. The suffix of `name` (`de.tsv.gz`) gives the format; `path` may have any name.

    Raises UserError if the file has no rows, is truncated, or is not in that format.
    """
    found = FORMAT.search(name)
    assert found, f"{name} has no known suffix"
    readers = {"jsonl": _json, "json": _json, "tsv": _table, "csv": _table, "parquet": _parquet, "tmx": _tmx, "txt": _text}
    check_is_text(path)
    first = None
    for first in readers[found[1]](path, found[1], columns):
        yield first
    if first is None:
        raise UserError(f"{path} has no rows; expected at least one")


def paired_rows(one: Path, other: Path, sides: tuple[str, str]) -> Iterator[RawRow]:
    """A pair of plain texts, line by line. Raises UserError if one has more lines than the other."""
    for number, (left, right) in enumerate(itertools.zip_longest(lines(one), lines(other)), start=1):
        if left is None or right is None:
            count = {path: sum(1 for _ in lines(path)) for path in (one, other)}
            found = " and ".join(f"{path} has {n:,} lines" for path, n in count.items())
            raise UserError(
                f"{other if right is None else one}:{number}: {found}; "
                "expected line n of one to be the translation of line n of the other"
            )
        yield RawRow(f"{one}:{number}", (left, right), functools.partial(_both, sides))


def _both(sides: tuple[str, str], raw: tuple[bytes, bytes]) -> Mapping[str, Any]:
    return {code: decode_utf8(text) for code, text in zip(sides, raw, strict=True)}


def _json(path: Path, form: str, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """One object per line, or one array of objects, as in ALMA's `valid` files."""
    stream = lines(path)
    head = next(stream, b"")
    # The first character tells the two apart: JSON lines are streamed, an array is read as a whole.
    if not head.lstrip().startswith(b"["):
        for number, line in enumerate(itertools.chain([head], stream), start=1):
            if line.strip():
                yield RawRow(f"{path}:{number}", line, _object)
        return
    text = b"\n".join([head, *stream])
    try:
        items = json.loads(decode_utf8(text))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg}); expected one array of objects") from None
    except BadRow as error:
        raise UserError(f"{path}: {error}") from None
    for number, item in enumerate(items, start=1):
        yield RawRow(f"{path}, item {number}", item, _mapping)


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(decode_utf8(raw)))
    except json.JSONDecodeError as error:
        raise BadRow(f"broken JSON ({error.msg} at column {error.colno}): {_short(raw)}") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRow(f"expected an object, found {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _table(path: Path, form: str, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """TSV without quoting, as bitext is distributed; CSV with it. If `columns` has numbers, there is no header."""
    header: list[str] = []
    numbered = bool(columns) and all(value.isdigit() for value in columns.values())
    for where, cells in _cells(path, form):
        if not header and not numbered:
            header = _header(where, cells)
            continue
        names = header or [str(number) for number in range(1, len(cells) + 1)]
        yield RawRow(where, cells, functools.partial(_record, names))


def _cells(path: Path, form: str) -> Iterator[tuple[str, list[bytes]]]:
    if form == "tsv":
        yield from ((f"{path}:{number}", line.split(b"\t")) for number, line in enumerate(lines(path), start=1))
        return
    # Latin-1 preserves every byte, so text that is not UTF-8 fails its own row only.
    reader = csv.reader((f"{line.decode('latin-1')}\n" for line in lines(path)), strict=True)
    number = 1
    try:
        for cells in reader:
            yield f"{path}:{number}", [cell.encode("latin-1") for cell in cells]
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{number}: invalid CSV from here on ({error}); "
            "expected every quote to be closed, and quotes inside to be doubled"
        ) from None


def _header(where: str, cells: list[bytes]) -> list[str]:
    try:
        return [decode_utf8(cell).strip() for cell in cells]
    except BadRow as error:
        raise UserError(f"{where}: {error}") from None


def _record(names: list[str], cells: list[bytes]) -> Mapping[str, Any]:
    if len(cells) != len(names):
        raise BadRow(f"{len(cells)} columns, expected {len(names)} ({', '.join(names)})")
    return dict(zip(names, map(decode_utf8, cells), strict=True))


def _parquet(path: Path, form: str, columns: Mapping[str, str]) -> Iterator[RawRow]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for item in batch.to_pylist():
                    number += 1
                    yield RawRow(f"{path}, row {number}", item, _mapping)
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error


def _tmx(path: Path, form: str, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """Translation units as {language: text}; `de-DE` counts as de, inline markup is removed but its text kept."""
    number = 0
    # Parse incrementally and clear each unit: a TMX file can be larger than memory.
    try:
        with open_bytes(path) as file:
            for _, unit in ElementTree.iterparse(file):
                if unit.tag == "tu":
                    number += 1
                    yield RawRow(
                        f"{path}, unit {number}", {lang: text for lang, text in map(_variant, unit.iter("tuv"))}, _mapping
                    )
                    unit.clear()
    except ElementTree.ParseError as error:
        raise UserError(f"{path}:{error.position[0]}: invalid XML from here on ({error}); expected a complete TMX file") from None
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error


def _variant(variant: "ElementTree.Element") -> tuple[str, str]:
    lang = variant.get(XML_LANG) or variant.get("lang") or ""
    segment = variant.find("seg")
    return re.split(r"[-_]", lang.lower())[0], "" if segment is None else "".join(segment.itertext())


def _text(path: Path, form: str, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """One document per line."""
    for number, line in enumerate(lines(path), start=1):
        yield RawRow(f"{path}:{number}", line, lambda raw: {"text": decode_utf8(raw)})
