"""Reads the rows of a file: JSON lines, a JSON array, TSV, CSV, Parquet, TMX, plain text, or a pair of plain texts.

A row maps column names to values; `columns` interprets them.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.lines import (
    UNPACK_ERRORS,
    check_is_text,
    damaged_file,
    decode_utf8,
    lines,
)
from alma_pipeline.ml.data.readers.raw_rows import BadRow, RawRow, shortened, unreadable
from alma_pipeline.ml.data.readers.tables import csv_rows, tsv_rows
from alma_pipeline.ml.data.readers.tmx import tmx_rows
from alma_pipeline.schema import Language

FORMAT = re.compile(r"\.(jsonl|json|tsv|csv|parquet|tmx|txt)(?:\.(?:gz|bz2|xz|zst))?$")
GOES_ON = (b"{", b"[", b",")
"""Ends of a first line of JSON that later lines complete."""


def rows(name: str, path: Path, columns: Mapping[str, str], languages: Mapping[str, Language]) -> Iterator[RawRow]:
    """The rows of one file. The suffix of `name` (`de.tsv.gz`) gives the format; `path` may have any name.

    `languages`: those that are read. Raises UserError if the file has no rows, is truncated, or is not in that format.
    """
    found = FORMAT.search(name)
    assert found, f"{name} has no known suffix"
    readers: dict[str, Callable[[], Iterator[RawRow]]] = {
        "jsonl": lambda: _json(path),
        "json": lambda: _json(path),
        "tsv": lambda: tsv_rows(path, columns),
        "csv": lambda: csv_rows(path, columns),
        "parquet": lambda: _parquet(path),
        "tmx": lambda: tmx_rows(path, columns, languages),
        "txt": lambda: _text(path),
    }
    check_is_text(path)
    first = None
    for first in readers[found[1]]():
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


def _json(path: Path) -> Iterator[RawRow]:
    """One object per line; or one array of objects, as in ALMA's `valid` files, alone or in an object as in {"data": [...]}."""
    stream = lines(path)
    head = next(stream, b"")
    # The first line tells them apart: JSON lines are streamed, anything else is read as a whole.
    if head.lstrip().startswith(b"["):
        yield from _items(path, _array(path, b"\n".join([head, *stream])))
        return
    ahead = [head, *(stream if head.rstrip().endswith(GOES_ON) else itertools.islice(stream, 2))]
    if (items := _wrapped(b"\n".join(ahead))) is not None:
        yield from _items(path, items)
        return
    for number, line in enumerate(itertools.chain(ahead, stream), start=1):
        if line.strip():
            yield RawRow(f"{path}:{number}", line, _object)


def _array(path: Path, text: bytes) -> list[Any]:
    try:
        value: list[Any] = _loaded(text)
        return value
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg}); expected one array of objects") from None
    except BadRow as error:
        raise UserError(f"{path}: {error}") from None


def _wrapped(text: bytes) -> list[Any] | None:
    """The rows of an object with an array of objects, called `data` or its only value; None for anything else."""
    try:
        value = _loaded(text)
    except (json.JSONDecodeError, BadRow):
        return None
    if not isinstance(value, Mapping):
        return None
    inner = value.get("data", next(iter(value.values()), None) if len(value) == 1 else None)
    return inner if isinstance(inner, list) and all(isinstance(item, Mapping) for item in inner) else None


def _items(path: Path, items: list[Any]) -> Iterator[RawRow]:
    for number, item in enumerate(items, start=1):
        yield RawRow(f"{path}, item {number}", item, _mapping)


def _loaded(text: bytes) -> Any:
    """The value. Raises JSONDecodeError, and BadRow for what is not UTF-8, or is more than Python takes."""
    try:
        return json.loads(decode_utf8(text))
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise BadRow(f"unusual JSON ({error}); expected objects with text") from None


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(_loaded(raw))
    except json.JSONDecodeError as error:
        raise BadRow(f"broken JSON ({error.msg} at column {error.colno}): {shortened(raw.decode('utf-8', 'replace'))}") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRow(f"expected an object, found {shortened(repr(value))}")
    return value


def _parquet(path: Path) -> Iterator[RawRow]:
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            header = tuple(file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for item in _parquet_items(batch):
                    number += 1
                    where = f"{path}, row {number}"
                    if isinstance(item, BadRow):
                        yield unreadable(where, "", str(item))
                    else:
                        yield RawRow(where, item, _mapping, header=header)
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error


def _parquet_items(batch: Any) -> Iterator[Any]:
    """The rows of a batch; a BadRow for one that is not UTF-8, or has a time out of range."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for place in range(len(batch)):
            try:
                yield from batch.slice(place, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield BadRow(f"holds what cannot be read ({error}); expected UTF-8 text")


def _text(path: Path) -> Iterator[RawRow]:
    """One document per line."""
    for number, line in enumerate(lines(path), start=1):
        yield RawRow(f"{path}:{number}", line, lambda raw: {"text": decode_utf8(raw)})
