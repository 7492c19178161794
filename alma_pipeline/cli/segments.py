"""Reads texts to translate and renders their translations: plain lines, or JSON lines of several directions.

A segment keeps its line breaks: each of its lines is translated separately and put back in its place (B45).
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError

JSON_SUFFIXES = (".jsonl", ".jsonlines", ".ndjson")
BREAK = re.compile(r"(\r\n|\r|\n)")
"""Line breaks that are kept; other characters that Python's splitlines treats as breaks become spaces in the prompt."""


@dataclass(frozen=True)
class Segment:
    """One text to translate."""

    direction: str
    """`de-en`."""
    text: str
    where: str
    """File and line, for error messages."""
    row: dict[str, Any] = field(default_factory=dict)
    """The JSON object it came from; empty for a plain line."""

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
    for name in files or ["-"]:
        json_lines = as_json or Path(name).suffix in JSON_SUFFIXES
        for number, line in enumerate(_lines(name), start=1):
            where = f"{'standard input' if name == '-' else name}, line {number}"
            if not json_lines:
                found.append(Segment(direction, line, where))
            elif line.strip():
                found.append(_parsed(line, direction, where))
    return found


def _lines(name: str) -> Iterator[str]:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from error
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file"
            ) from error


def _parsed(line: str, direction: str, where: str) -> Segment:
    expected = 'expected a JSON object, as in {"direction": "de-en", "source": "Das Haus ist klein."}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); {expected}") from error
    if not isinstance(row, dict) or not isinstance(row.get("source"), str):
        raise UserError(f"{where}: no text under 'source'; {expected}")
    own = row.get("direction", direction)
    if not isinstance(own, str):
        raise UserError(f"{where}: direction is {own!r}; {expected}")
    return Segment(own, row["source"], where, row)


def rendered(segment: Segment, translation: str) -> str:
    """The segment's line of output: plain text, or its JSON line with the translation added."""
    if not segment.row:
        return translation
    return json.dumps(segment.row | {"direction": segment.direction, "translation": translation}, ensure_ascii=False)
