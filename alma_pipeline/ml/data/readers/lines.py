"""Reads lines of text files, compressed or not. Knows no format beyond the line.

A file that is unusable as a whole (empty, truncated, a Git LFS pointer) always stops the stage.
"""

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import zstandard

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.raw_rows import SURROGATE, BadRow, shortened
from alma_pipeline.ml.data.readers.zstd import ZstdFile

BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
HEAD = 2**20
"""Bytes at the start of a file that decide how its lines end."""
LFS_POINTER = b"version https://git-lfs"
UNPACK_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pyarrow.ArrowException, OSError)
"""What decompressors raise for a truncated file, and for content that does not match the suffix."""


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed by its suffix: .gz, .bz2, .xz, .zst or none of these."""
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": lambda name: io.BufferedReader(ZstdFile(name)),
    }
    opener = openers.get(path.suffix.lower(), _plain)
    opened: BinaryIO = opener(path)
    return opened


def _plain(path: Path) -> BinaryIO:
    return open(path, "rb")


def damaged_file(path: Path, error: Exception) -> UserError:
    """The error for a file that cannot be read to its end."""
    reason = shortened(str(error)) or type(error).__name__
    return UserError(
        f"{path} cannot be read to its end ({reason}): it is truncated, or its content does not match its suffix. "
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
    """The lines of a file, as in `lines_of`. Raises UserError if the file is empty or truncated."""
    check_is_text(path)
    try:
        with open_bytes(path) as file:
            yield from lines_of(file, str(path))
    except UNPACK_ERRORS as error:
        raise damaged_file(path, error) from error


def lines_of(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of brought text without their ends and without byte-order marks, which joined files have in the middle too.

    Lines end in \\n or \\r\\n; in \\r where a file begins without any \\n. Raises UserError for UTF-16. `name`: for messages.
    """
    head = file.read(HEAD)
    if head.startswith(UTF_16) or 4 * head.count(0) > len(head):
        raise UserError(f"{name} is not UTF-8 but UTF-16 or no text at all; convert it, as with iconv -f utf-16 -t utf-8")
    for line in _split(head, file):
        while line.startswith(BOM):
            line = line.removeprefix(BOM)
        yield line.removesuffix(b"\r")


def _split(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    """The lines of `head` and of the rest of the file; a \\r before \\n is kept."""
    if b"\n" in head or b"\r" not in head:
        *whole, left = head.split(b"\n")
        yield from whole
        left += file.readline()
        yield from [left.removesuffix(b"\n")] if left else []
        yield from (line.removesuffix(b"\n") for line in file)
        return
    # Latin-1 preserves every byte while the decoder turns each kind of end into \n.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("latin-1")(), translate=True)
    begun = ""
    for piece in itertools.chain([head], iter(lambda: file.read(HEAD), b""), [b""]):
        *ended, begun = (begun + decoder.decode(piece, final=not piece)).split("\n")
        yield from (line.encode("latin-1") for line in ended)
    yield from [begun.encode("latin-1")] if begun else []


def decode_utf8(raw: bytes) -> str:
    """The text. Raises BadRow, with the position, if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}; convert the file, as with iconv -t utf-8"
        ) from None


def check_characters(text: str, what: str) -> str:
    """The text. Raises BadRow if it holds half of a character, as JSON does that was cut inside an emoji. `what`: its name."""
    if not text.isascii() and (found := SURROGATE.search(text)):
        raise BadRow(
            f"{what} has half of a character, \\u{ord(found[0]):04x}, at position {found.start() + 1}; expected whole ones: "
            "something cut the text inside an emoji"
        )
    return text
