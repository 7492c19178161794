"""Micro-batches brought to the device: on a GPU the next ones are made and copied while it computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]
"""Tensors, and dictionaries and tuples of them and of numbers."""


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on `device`, in order. What raises while a batch is made raises here."""
    if device.type != "cuda":
        yield from batches
        return
    with ThreadPoolExecutor(max_workers=1) as ahead:
        coming = ahead.submit(_next_pinned, batches)
        while (batch := coming.result()) is not None:
            coming = ahead.submit(_next_pinned, batches)
            yield moved(batch, device)


def _next_pinned(batches: Iterator[Batch]) -> Batch | None:
    """The next batch in pinned memory, from where a copy does not hold up the host; None after the last."""
    batch = next(batches, None)
    return batch and _each(batch, Tensor.pin_memory)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    found: Batch = _each(batch, lambda tensor: tensor.to(device, non_blocking=True))
    return found


def _each(value: Any, change: Any) -> Any:
    """`value` with every tensor in it changed; numbers stay."""
    if isinstance(value, int):
        return value
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _each(part, change) for name, part in value.items()}
    return tuple(_each(part, change) for part in value)
