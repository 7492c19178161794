"""Rows as they are read from a file, before their columns are interpreted, and what happens to those that cannot be read."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alma_pipeline.errors import PipelineError, UserError

CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f\ufeff]")
"""Characters that belong to no text: control characters other than white space, and byte-order marks."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character beyond U+FFFF, which UTF-8 cannot hold."""
MAX_SHOWN = 200
"""Characters of a row, or of a library's error, that a message quotes."""


class BadRow(PipelineError):
    """A row that cannot be read: what was found, and what was expected. The caller adds the file and line."""


class RawRow(NamedTuple):
    """A row as read from its file, not parsed yet."""

    where: str
    """`path:12`, or the row's number in a format without lines."""
    raw: Any
    parse: Callable[[Any], Mapping[str, Any]]
    """Raises BadRow."""
    noticed: tuple[str, ...] = ()
    """What was odd about it, to be counted: `line_breaks`, `doubled_quotes`, `variants`."""
    header: tuple[str, ...] | None = None
    """The columns of a table, which all of its rows have; None in other formats."""


def unreadable(where: str, raw: Any, problem: str) -> RawRow:
    """A row that is known to be unreadable before it is parsed."""

    def parse(_: Any) -> Mapping[str, Any]:
        raise BadRow(problem)

    return RawRow(where, raw, parse)


class Rejects:
    """Handles unreadable rows: stops the stage, or writes the row to a file and counts it."""

    def __init__(self, policy: str, path: Path) -> None:
        """`policy`: stop or skip, the setting `data.on_error`. `path`: the file of rejected rows, appended to."""
        self.policy, self.path = policy, path
        # A file is read once per direction, and again after a kill; each row is rejected only once.
        kept = path.read_bytes() if path.exists() else b""
        whole = kept[: kept.rfind(b"\n") + 1]
        self._places = {json.loads(line)["where"] for line in whole.split(b"\n")[:-1]}
        # A kill may have cut the last line.
        if whole != kept:
            path.write_bytes(whole)

    @property
    def summary(self) -> str:
        """How many rows were rejected, and where they are; empty without any."""
        shown = f"; {self.count:,} rows were rejected, among them {min(self._places)}" if self._places else ""
        return f"{shown} ({self.path} has all, with reasons)" if shown else ""

    @property
    def count(self) -> int:
        """Number of unreadable rows."""
        return len(self._places)

    def __call__(self, where: str, problem: str, raw: Any) -> None:
        """Reject a row. Raises UserError if the policy is `stop`."""
        if self.policy == "stop":
            raise UserError(f"{where}: {problem}. Correct it, or skip such rows with data.on_error=skip")
        if where in self._places:
            return
        self._places.add(where)
        cells = [printable(cell) for cell in raw] if isinstance(raw, list | tuple) else raw
        text = printable(cells if isinstance(cells, bytes | str) else str(cells))
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"where": where, "problem": problem, "row": text.rstrip("\r\n")}, ensure_ascii=False) + "\n")


def shortened(text: str) -> str:
    """The first 200 characters, on one line: as much of a row as a message quotes."""
    line = " ".join(text[: MAX_SHOWN + 1].split())
    return line if len(text) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."


def printable(text: str | bytes) -> str:
    """The text with what is no character as a backslash and its number, which a terminal and a log can take."""
    encoded = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    return encoded.decode("utf-8", "backslashreplace")
