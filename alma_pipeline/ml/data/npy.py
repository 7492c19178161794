"""`.npy` files larger than memory: written in pieces, with resume from any length, and read in pieces without being mapped."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

HEADER_BYTES = 128
"""Size of the header at any length: numpy leaves room in it for the first axis to grow."""


class NpyWriter:
    """One flat array of one type. The file becomes a valid `.npy` file only in `finish`."""

    def __init__(self, path: Path, dtype: DTypeLike, length: int = 0) -> None:
        """Keep the first `length` numbers of an earlier attempt's file and append after them; 0 starts a new file."""
        self.path, self.dtype, self.length = path, np.dtype(dtype), length
        self._file = open(path, "r+b" if length else "w+b")  # noqa: SIM115
        self._file.truncate(HEADER_BYTES + length * self.dtype.itemsize)
        self._file.seek(0, 2)

    def append(self, values: "NDArray[Any]") -> None:
        """Write values at the end, cast to the array's type."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.length += len(values)

    def flush(self) -> None:
        """Sync to disk, so that a resume point can rely on what was appended."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, width: int | None = None) -> None:
        """Write the header and close: a flat array, or rows of `width` with the remainder cut off."""
        shape = (self.length,) if width is None else (self.length // width, width)
        self._file.truncate(HEADER_BYTES + int(np.prod(shape)) * self.dtype.itemsize)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        )
        assert self._file.tell() == HEADER_BYTES, "numpy's header has another length than the data leaves room for"
        self._file.close()


class NpyReader:
    """The numbers of an `.npy` file as a flat read-only array, in file order, whatever the shape.

    Reads with pread instead of mapping the file: pages of a mapped file count towards the process's memory once touched, and
    training in random order touches all of them.
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError unless the file is a complete, row-major array of numbers."""
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        header = npy.read_array_header_1_0 if npy.read_magic(self._file) == (1, 0) else npy.read_array_header_2_0
        self.shape, by_column, self.dtype = header(self._file)
        self._begin, self._length = self._file.tell(), math.prod(self.shape)
        size = path.stat().st_size - self._begin
        if self.dtype.hasobject or (by_column and len(self.shape) > 1) or size != len(self) * self.dtype.itemsize:
            raise ValueError(
                f"{path} has {size} bytes of {self.dtype} {self.shape}{' in column-major order' * by_column}; "
                f"expected numbers in row-major order, {len(self) * self.dtype.itemsize} bytes"
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice) -> NDArray[Any]:
        """The numbers of a slice (its step is ignored), or one number of shape []. Raises IndexError."""
        wanted = range(len(self))[index]
        first, count = (wanted.start, len(wanted)) if isinstance(wanted, range) else (wanted, 1)
        # pread does not move the file position, so threads and forked processes can share the file.
        read = os.pread(self._file.fileno(), count * self.dtype.itemsize, self._begin + first * self.dtype.itemsize)
        found = np.frombuffer(read, self.dtype)
        return found if isinstance(wanted, range) else found.reshape(())
