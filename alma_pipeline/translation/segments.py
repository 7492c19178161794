"""Reads texts to translate and renders their translations: plain lines, or JSON lines of several directions.

A segment keeps its line breaks: each of its lines is translated separately and put back in its place (B45).
"""

import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.raw_rows import CONTROL, SURROGATE

JSON_SUFFIXES = (".json", ".jsonl", ".jsonlines", ".ndjson")
STANDARD_INPUT = "-"
BREAK = re.compile(r"(\r\n|\r|\n)")
"""Line breaks that are kept; other characters that Python's splitlines treats as breaks become spaces in the prompt."""
MAX_PLACES = 10
"""Lines of a file that a warning names."""


@dataclass(frozen=True)
class Segment:
    """One text to translate."""

    direction: str
    """`de-en`."""
    text: str
    file: str
    """Its file, for messages."""
    number: int
    """Its line in that file, from 1."""
    row: dict[str, Any] = field(default_factory=dict)
    """The JSON object it came from; empty for a plain line."""

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.number}"

    def lines(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in BREAK.split(self.text)[::2] if line.strip()]

    def translated(self, lines: Iterator[str]) -> str:
        """The text with its non-blank lines replaced by the next ones of `lines`; breaks and blank lines stay."""
        parts = BREAK.split(self.text)
        parts[::2] = [next(lines) if part.strip() else part for part in parts[::2]]
        return "".join(parts)


def read(files: list[str], direction: str, as_json: bool) -> list[Segment]:
    """The segments of these files, or of standard input if there are none. Raises UserError with file and line."""
    found: list[Segment] = []
    for name in files or [STANDARD_INPUT]:
        json_lines = as_json or Path(name).suffix.lower() in JSON_SUFFIXES
        file = "standard input" if name == STANDARD_INPUT else name
        for number, line in enumerate(_lines(name, file), start=1):
            if not json_lines:
                found.append(Segment(direction, CONTROL.sub("", line), file, number))
            elif line.strip():
                found.append(_parsed(line, direction, file, number))
    return found


def _lines(name: str, file: str) -> Iterator[str]:
    """The lines of a file, which end in LF, CRLF, or, in a file without any LF, in CR.

    Byte-order marks go at the start of every line: joined files have them in the middle too.
    """
    data = _data(name, file).removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{file}: UTF-16, expected UTF-8; convert it, as in `iconv -f UTF-16 -t UTF-8 FILE`")
    lines = data.split(b"\n" if b"\n" in data else b"\r")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\r").lstrip("\ufeff")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); decompress or convert the file"
            ) from error


def _data(name: str, file: str) -> bytes:
    if name == STANDARD_INPUT and sys.stdin is None:
        raise UserError("standard input is closed, so there is nothing to translate; name a FILE")
    try:
        return sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


def _parsed(line: str, direction: str, file: str, number: int) -> Segment:
    where = f"{file}, line {number}"
    expected = 'expected a JSON object, as in {"direction": "de-en", "source": "Das Haus ist klein."}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); {expected}") from error
    if not isinstance(row, dict) or not isinstance(row.get("source"), str):
        raise UserError(f"{where}: no text under 'source'; {expected}")
    # Only an escape gets one through the UTF-8 decoder. The whole row is written out again, so it may be in any field.
    if found := SURROGATE.search(json.dumps(row, ensure_ascii=False)):
        raise UserError(f"{where}: half a character (\\u{ord(found[0]):04x} without its other half), which UTF-8 cannot hold")
    own = row.get("direction", direction)
    if not isinstance(own, str):
        raise UserError(f"{where}: direction is {own!r}; {expected}")
    return Segment(own, CONTROL.sub("", row["source"]), file, number, row)


def rendered(segment: Segment, translation: str, flags: Iterable[str] = ()) -> str:
    """The segment's line of output: plain text, or its JSON line with the translation and what is to be known of it."""
    if not segment.row:
        return translation
    added = {"direction": segment.direction, "translation": translation, "translation_flags": list(flags)}
    return json.dumps(segment.row | added, ensure_ascii=False)


def places(segments: Iterable[Segment]) -> str:
    """Where these segments are, in words: `a.txt, lines 3, 7 and 9; b.txt, line 1`."""
    numbers: dict[str, list[int]] = {}
    for segment in segments:
        numbers.setdefault(segment.file, []).append(segment.number)
    return "; ".join(f"{file}, {_numbers(list(dict.fromkeys(found)))}" for file, found in numbers.items())


def _numbers(found: list[int]) -> str:
    shown = [f"{number:,}" for number in found[:MAX_PLACES]]
    if len(found) > MAX_PLACES:
        shown.append(f"{len(found) - MAX_PLACES:,} more")
    *first, last = shown
    return f"lines {', '.join(first)} and {last}" if first else f"line {last}"
