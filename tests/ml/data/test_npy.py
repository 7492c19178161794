"""`.npy` files written and read in pieces."""

from pathlib import Path

import numpy as np
import pytest

from alma_pipeline.ml.data.npy import NpyReader, NpyWriter


def test_a_writer_keeps_a_length_and_appends_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    first = NpyWriter(path, np.int32)
    first.append(np.arange(10))
    first.flush()
    resumed = NpyWriter(path, np.int32, length=4)
    resumed.append(np.array([70, 80, 90]))
    resumed.finish()
    array = np.load(path)
    assert array.dtype == np.int32 and array.tolist() == [0, 1, 2, 3, 70, 80, 90]


def test_rows_of_a_width_drop_the_remainder(tmp_path: Path) -> None:
    writer = NpyWriter(tmp_path / "a.npy", np.int32)
    writer.append(np.arange(7))
    writer.finish(width=3)
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_reader_sees_any_shape_as_flat(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(12, dtype=np.int64).reshape(3, 4))
    reader = NpyReader(tmp_path / "a.npy")
    assert (len(reader), reader.shape, reader.dtype) == (12, (3, 4), np.dtype(np.int64))
    assert reader[3:6].tolist() == [3, 4, 5] and int(reader[-1]) == 11 and reader[0].shape == ()
    with pytest.raises(IndexError):
        reader[12]


def test_half_an_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8), dtype=np.int32))
    with open(tmp_path / "a.npy", "r+b") as file:
        file.truncate(file.seek(0, 2) - 8)
    with pytest.raises(ValueError, match=r"has 56 bytes of int32 .*expected numbers in row-major order, 64 bytes"):
        NpyReader(tmp_path / "a.npy")


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    """B9"""
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="expected numbers"):
        NpyReader(tmp_path / "a.npy")


def test_column_major_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.zeros((2, 8), dtype=np.int32)))
    with pytest.raises(ValueError, match="in column-major order; expected numbers in row-major order"):
        NpyReader(tmp_path / "a.npy")
