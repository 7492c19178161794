"""Tensors as they were at one moment: a copy in host memory, laid out as the safetensors file that it is written to.

A copy takes seconds. Writing the file takes minutes, in which training continues and changes the tensors themselves.
"""

import contextlib
import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.cuda import _pin_memory_utils as pinning

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Their names in a safetensors header."""
PIECE = 2**24
"""Bytes that are hashed and written at a time."""


class HostBuffer:
    """Host memory for one copy after another, kept between them. Beside a GPU it is pinned, so that the GPU copies into it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int, pinned: bool) -> Tensor:
        """[size] uint8; the memory that the last call returned, if that is large enough."""
        if len(self._memory) < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
            if pinned:
                _pin(self._memory)
        return self._memory[:size]


def _pin(memory: Tensor) -> None:
    """Pin the memory as long as the tensor exists. Where the system refuses, copies into it are slower, and a line is printed."""
    # torch's own allocator of pinned memory would round the size up to a power of two.
    try:
        pinning.pin_memory(memory.data_ptr(), len(memory))
    except RuntimeError as error:
        print(f"the memory that resume points are copied to is not pinned ({error})", flush=True)
        # CUDA keeps the error for whoever asks next: let that not be a training step.
        with contextlib.suppress(RuntimeError, AssertionError):
            torch.zeros(1, device="cuda")
    else:
        weakref.finalize(memory, pinning.unpin_memory, memory.data_ptr()).atexit = False


@dataclass(frozen=True)
class Snapshot:
    """The bytes of a safetensors file, not yet written."""

    header: bytes
    data: Tensor
    """[bytes] uint8 on the CPU."""

    def write(self, path: Path) -> tuple[int, str]:
        """Write the file and wait until it is on disk; returns its size in bytes and its SHA-256. Reads nothing back."""
        digest = hashlib.sha256()
        with open(path, "wb") as file:
            for piece in self._pieces():
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return len(self.header) + len(self.data), digest.hexdigest()

    def _pieces(self) -> Iterator[bytes | memoryview]:
        yield self.header
        content = self.data.numpy().data  # a memoryview of the same bytes
        for start in range(0, len(content), PIECE):
            yield content[start : start + PIECE]


def take(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], buffer: HostBuffer) -> Snapshot:
    """A copy of `tensors` as they are now, in the memory of `buffer`: the buffer's last snapshot must have been written.

    Raises TypeError for a dtype that has no name in `DTYPES`.
    """
    # In order of falling element size each tensor is aligned without gaps, which the format forbids.
    by_size = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    places, end = {}, 0
    for name, tensor in by_size:
        places[name] = slice(end, end := end + tensor.numel() * tensor.element_size())
    # Copies from a GPU run on their own; the memory is not read before the last is done.
    on_gpu = any(tensor.is_cuda for tensor in tensors.values())
    data = buffer.take(end, pinned=on_gpu)
    for name, tensor in by_size:
        if tensor.numel():
            data[places[name]].view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
    if on_gpu:
        torch.cuda.current_stream().synchronize()
    return Snapshot(_header(tensors, places, metadata), data)


def _header(tensors: Mapping[str, Tensor], places: Mapping[str, slice], metadata: Mapping[str, str]) -> bytes:
    """The format's first bytes: the header's length in 8 bytes, then the header as JSON, padded to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    for name, place in places.items():
        dtype = tensors[name].dtype
        if dtype not in DTYPES:
            raise TypeError(f"a resume point cannot hold a tensor of {dtype}; expected one of {', '.join(DTYPES.values())}")
        entries[name] = {
            "dtype": DTYPES[dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [place.start, place.stop],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
