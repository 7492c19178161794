"""Array files that grow: .npy files written piece by piece, cut back to an earlier size, whole only once finished."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

HEADER = 128
"""Bytes of the header, whatever the length: numpy leaves room in it for the first axis to grow."""


class Growing:
    """One flat array of a type."""

    def __init__(self, path: Path, dtype: DTypeLike, length: int = 0) -> None:
        """Go on with the first `length` numbers of an earlier attempt's file; 0 begins it."""
        self.path, self.dtype, self.length = path, np.dtype(dtype), length
        self._file = open(path, "r+b" if length else "w+b")  # noqa: SIM115
        self._file.truncate(HEADER + length * self.dtype.itemsize)
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
        self._file.truncate(HEADER + int(np.prod(shape)) * self.dtype.itemsize)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        )
        assert self._file.tell() == HEADER, "numpy's header has another length than the data leaves room for"
        self._file.close()
