"""Arrays in files, read a piece at a time: a corpus of any size takes no memory of the process that trains on it."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class Stored:
    """The numbers of an `.npy` file in their order, whatever its shape, as a flat read-only array.

    They are read, not mapped: each page of a mapped file that was looked at counts as memory of its process from then on,
    and the random examples of a training come to look at all of them.
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a file that is no whole array of numbers, row by row."""
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        header = npy.read_array_header_1_0 if npy.read_magic(self._file) == (1, 0) else npy.read_array_header_2_0
        self.shape, by_column, self.dtype = header(self._file)
        self._begin, self._length = self._file.tell(), math.prod(self.shape)
        size = path.stat().st_size - self._begin
        if self.dtype.hasobject or (by_column and len(self.shape) > 1) or size != len(self) * self.dtype.itemsize:
            raise ValueError(
                f"{path} has {size} bytes of {self.dtype} {self.shape}{' by column' * by_column}; "
                f"expected numbers row by row, {len(self) * self.dtype.itemsize} bytes"
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: int | slice) -> NDArray[Any]:
        """Numbers between two places (a step is not looked at), or the one at a place, of shape []. Raises IndexError."""
        wanted = range(len(self))[places]
        first, count = (wanted.start, len(wanted)) if isinstance(wanted, range) else (wanted, 1)
        # pread leaves the file's place alone: threads, and processes that share the file, do not disturb each other.
        read = os.pread(self._file.fileno(), count * self.dtype.itemsize, self._begin + first * self.dtype.itemsize)
        found = np.frombuffer(read, self.dtype)
        return found if isinstance(wanted, range) else found.reshape(())
