"""Arrays in files, read a piece at a time: a corpus of any size takes no memory of the process that trains on it."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray


class NpyReader:
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


HEADER_BYTES = 128
"""Bytes of the header, whatever the length: numpy leaves room in it for the first axis to grow."""


class NpyWriter:
    """One flat array of a type."""

    def __init__(self, path: Path, dtype: DTypeLike, length: int = 0) -> None:
        """Go on with the first `length` numbers of an earlier attempt's file; 0 begins it."""
        self.path, self.dtype, self.length = path, np.dtype(dtype), length
        self._file = open(path, "r+b" if length else "w+b")  # noqa: SIM115
        self._file.truncate(HEADER_BYTES + length * self.dtype.itemsize)
        self._file.seek(0, 2)

    def append(self, values: "NDArray[Any]") -> None:
        """Write values at the end, in the array's own type."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.length += len(values)

    def flush(self) -> None:
        """Onto the disk: a resume point counts on it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, width: int | None = None) -> None:
        """Write the header, which makes it an .npy file: flat, or as rows of `width` with what is left over cut off."""
        shape = (self.length,) if width is None else (self.length // width, width)
        self._file.truncate(HEADER_BYTES + int(np.prod(shape)) * self.dtype.itemsize)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        )
        assert self._file.tell() == HEADER_BYTES, "numpy's header has another length than the data leaves room for"
        self._file.close()
