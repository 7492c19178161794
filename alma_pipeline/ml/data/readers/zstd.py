"""A zstd file opened for reading, with any window that `zstd --long=31` makes. Other packings are Python's own."""

import io
from pathlib import Path
from typing import Any

import zstandard

LARGEST_WINDOW = 2**31
"""Bytes that a file may need in memory; `zstd` alone allows 2^27 unless asked for more."""
PIECE = 2**14
"""Packed bytes to unpack at once. Bounds memory: text that repeats itself grows a thousandfold."""


class ZstdFile(io.RawIOBase):
    """The unpacked bytes of a file of one or more frames. Reading raises EOFError if the last frame is incomplete."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed in `close`
        self._decoder = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; 0 at the end. Raises EOFError, or ZstdError for what is not zstd."""
        while not self._ready and self._unpack():
            pass
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        """Close the file below."""
        self._file.close()
        super().close()

    def _unpack(self) -> bool:
        """Unpack the next piece into `_ready`. Returns whether there was one."""
        # What follows a frame's end begins the next frame.
        ended = self._frame is not None and self._frame.eof
        packed = (self._frame.unused_data if ended else b"") or self._file.read(PIECE)
        if not packed:
            if self._frame is not None and not ended:
                raise EOFError("the last frame is incomplete")
            return False
        if self._frame is None or ended:
            self._frame = self._decoder.decompressobj()
        self._ready = self._frame.decompress(packed)
        return True
