"""Text files as they come: packed or not, checked line by line. Knows no format beyond the line.

What is wrong with a whole file (empty, cut short, a pointer in place of the file) always stops the stage. What is wrong with a
row is the business of `Rejects`.
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
"""What the unpackers raise where a file ends early or holds something else than its name says."""
MAX_SHOWN = 200


class BadRow(PipelineError):
    """A row that cannot be read: what was found, and what was expected. Its place is known to who reads the file."""


class Rejects:
    """What happens to a row that cannot be read: the stage stops, or the row is kept aside in a file and counted."""

    def __init__(self, policy: str, path: Path) -> None:
        """`policy`: stop or skip, `data.on_error`."""
        self.policy, self.path = policy, path
        # A file is read once for each direction, and again after a kill: a row is rejected once.
        self._told = (
            {json.loads(line)["where"] for line in path.read_text(encoding="utf-8").splitlines()} if path.exists() else set()
        )

    @property
    def count(self) -> int:
        """How many rows could not be read."""
        return len(self._told)

    def __call__(self, where: str, problem: str, raw: Any) -> None:
        """Raises UserError where the policy is to stop."""
        if self.policy == "stop":
            raise UserError(f"{where}: {problem}. Correct it, or leave such rows out with data.on_error=skip")
        if where in self._told:
            return
        self._told.add(where)
        text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw)
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"where": where, "problem": problem, "row": text.rstrip("\r\n")}, ensure_ascii=False) + "\n")


def open_bytes(path: Path) -> BinaryIO:
    """The unpacked bytes of a file, by the end of its name: .gz, .bz2, .xz, .zst or none of them."""
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": lambda name: io.BufferedReader(pyarrow.input_stream(str(name), compression="zstd")),
    }
    opener = openers.get(path.suffix, _plain)
    opened: BinaryIO = opener(path)
    return opened


def _plain(path: Path) -> BinaryIO:
    return open(path, "rb")


def damaged_file(path: Path, error: Exception) -> UserError:
    """A file that cannot be read to its end."""
    said = str(error) or type(error).__name__
    return UserError(
        f"{path} cannot be read to its end: it may have been downloaded in part, or hold something else than its name says "
        f"({said[:MAX_SHOWN]}). Fetch it again"
    )


def check_is_text(path: Path) -> None:
    """Raises UserError for what is no text at all: nothing, or a Git LFS pointer."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; expected at least one row")
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the file itself; fetch it with git lfs pull")


def lines(path: Path) -> Iterator[bytes]:
    """The lines without their ends; only \\n and \\r\\n end one. Raises UserError for a file that is empty or cut short."""
    check_is_text(path)
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file):
                line = line.rstrip(b"\n").removesuffix(b"\r")
                yield line.removeprefix(BOM) if number == 0 else line
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error


def decode_utf8(raw: bytes) -> str:
    """Raises BadRow for bytes that are not UTF-8, with the first of them."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}; convert the file, as with iconv -t utf-8"
        ) from None
