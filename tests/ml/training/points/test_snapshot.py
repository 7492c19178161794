"""A copy of tensors that is written later, as a file that safetensors reads and no code of ours has read back."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.cuda import _pin_memory_utils

from alma_pipeline.ml.training.points import snapshot
from alma_pipeline.ml.training.points.snapshot import DTYPES, HostBuffer


def tensors() -> dict[str, torch.Tensor]:
    """Every dtype, a scalar, nothing at all, a transposed matrix and a slice; odd sizes, so that gaps would show."""
    found = {name: torch.arange(3).to(dtype) for dtype, name in DTYPES.items()}
    flat = torch.arange(40.0)
    others = {"scalar": torch.tensor(math.pi), "none": torch.zeros(0, 4), "turned": flat.view(5, 8).t(), "part": flat[3:8]}
    return found | others


def test_safetensors_reads_what_is_written_and_the_digest_is_the_files(tmp_path: Path) -> None:
    given = tensors()
    size, digest = snapshot.take(given, {"who": "ß\u2028"}, HostBuffer()).write(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    found = load_file(tmp_path / "file")
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype is tensor.dtype and torch.equal(found[name], tensor), name


def test_a_file_larger_than_a_piece_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PIECE", 100)
    weight = torch.randn(33, 7)
    _, digest = snapshot.take({"weight": weight}, {}, HostBuffer()).write(tmp_path / "file")
    assert digest == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert torch.equal(load_file(tmp_path / "file")["weight"], weight)


def test_later_steps_do_not_change_a_copy_and_its_memory_is_used_again(tmp_path: Path) -> None:
    buffer, weight = HostBuffer(), torch.randn(50)
    before = weight.clone()
    first = snapshot.take({"weight": weight}, {}, buffer)
    weight.add_(1)
    first.write(tmp_path / "first")
    second = snapshot.take({"weight": weight[:20]}, {}, buffer)
    second.write(tmp_path / "second")
    assert torch.equal(load_file(tmp_path / "first")["weight"], before)
    assert torch.equal(load_file(tmp_path / "second")["weight"], weight[:20])
    assert second.data.data_ptr() == first.data.data_ptr()


def test_a_dtype_without_a_name_is_refused_when_it_is_copied() -> None:
    with pytest.raises(TypeError, match=r"cannot hold a tensor of torch.complex64; expected one of F64, F32"):
        snapshot.take({"a": torch.zeros(2, dtype=torch.complex64)}, {}, HostBuffer())


def test_memory_beside_a_gpu_is_pinned_as_long_as_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: dict[int, int] = {}
    monkeypatch.setattr(_pin_memory_utils, "pin_memory", pinned.__setitem__)
    monkeypatch.setattr(_pin_memory_utils, "unpin_memory", pinned.pop)
    buffer = HostBuffer()
    first = buffer.take(100, pinned=True).data_ptr()
    assert buffer.take(60, pinned=True).data_ptr() == first and pinned == {first: 100}
    second = buffer.take(5000, pinned=True).data_ptr()
    assert pinned == {second: 5000}
    del buffer
    assert not pinned


def test_memory_that_cannot_be_pinned_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(place: int, size: int) -> None:
        raise RuntimeError("Registering memory failed with cudaError: 2.")

    monkeypatch.setattr(_pin_memory_utils, "pin_memory", refuse)
    assert len(HostBuffer().take(100, pinned=True)) == 100
    assert "is not pinned (Registering memory failed with cudaError: 2.)" in capsys.readouterr().out
