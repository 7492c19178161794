"""Reads lines of text files, compressed or not. Knows no format beyond the line.

A file that is unusable as a whole (empty, truncated, a Git LFS pointer) always stops the stage. `Rejects` handles unreadable
rows.
"""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow

from alma_pipeline.errors import PipelineError, UserError

BOM = b"\xef\xbb\xbf"
LFS_POINTER = b"version https://git-lfs"
UNPACK_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pyarrow.ArrowException, OSError)
"""What decompressors raise for a truncated file, and for content that does not match the suffix."""
MAX_SHOWN = 200
"""Characters of a bad row or of a library's error that a message quotes."""


class BadRow(PipelineError):
    """A row that cannot be read: what was found, and what was expected. The caller adds the file and line."""


class Rejects:
    """Handles unreadable rows: stops the stage, or writes the row to a file and counts it."""

    def __init__(self, policy: str, path: Path) -> None:
        """`policy`: stop or skip, the setting `data.on_error`. `path`: the file of rejected rows, appended to."""
        self.policy, self.path = policy, path
        # A file is read once per direction, and again after a kill; each row is rejected only once.
        self._places = (
            {json.loads(line)["where"] for line in path.read_text(encoding="utf-8").splitlines()} if path.exists() else set()
        )

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
        text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw)
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"where": where, "problem": problem, "row": text.rstrip("\r\n")}, ensure_ascii=False) + "\n")


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed by its suffix: .gz, .bz2, .xz, .zst or none of these."""
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": lambda name: io.BufferedReader(pyarrow.input_stream(str(name), compression="zstd")),
    }
    opener = openers.get(path.suffix.lower(), _plain)
    opened: BinaryIO = opener(path)
    return opened


def _plain(path: Path) -> BinaryIO:
    return open(path, "rb")


def damaged_file(path: Path, error: Exception) -> UserError:
    """The error for a file that cannot be read to its end."""
    reason = str(error) or type(error).__name__
    return UserError(
        f"{path} cannot be read to its end ({reason[:MAX_SHOWN]}): it is truncated, or its content does not match its suffix. "
        "Download it again"
    )


def check_is_text(path: Path) -> None:
    """Raises UserError if the file is empty or a Git LFS pointer."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; expected at least one row")
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the file itself; download the file with git lfs pull")


def lines(path: Path) -> Iterator[bytes]:
    """The lines without their ends; only \\n and \\r\\n end a line. Raises UserError if the file is empty or truncated."""
    check_is_text(path)
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file):
                line = line.rstrip(b"\n").removesuffix(b"\r")
                yield line.removeprefix(BOM) if number == 0 else line
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error


def decode_utf8(raw: bytes) -> str:
    """The text. Raises BadRow, with the position, if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}; convert the file, as with iconv -t utf-8"
        ) from None
