"""Micro-batches brought to the device: on a GPU the next ones are made and copied while it computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = dict[str, Any]
"""Tensors, and dictionaries and tuples of them and of numbers."""
Item = TypeVar("Item")


def on_device(batches: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """The same items, batches or tuples with one, in order and their tensors on `device`.

    What raises while an item is made raises here.
    """
    if device.type != "cuda":
        yield from batches
        return
    with ThreadPoolExecutor(max_workers=1) as ahead:
        coming = ahead.submit(_next_pinned, batches)
        while (batch := coming.result()) is not None:
            coming = ahead.submit(_next_pinned, batches)
            yield moved(batch, device)


def _next_pinned(batches: Iterator[Item]) -> Item | None:
    """The next item in pinned memory, from where a copy does not hold up the host; None after the last."""
    item = next(batches, None)
    return None if item is None else _each(item, Tensor.pin_memory)


def moved(item: Item, device: torch.device) -> Item:
    """The item with its tensors on `device`."""
    there: Item = _each(item, lambda tensor: tensor.to(device, non_blocking=True))
    return there


def _each(value: Any, change: Any) -> Any:
    """`value` with every tensor in it changed; what is neither a tensor nor holds one stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _each(part, change) for name, part in value.items()}
    return tuple(_each(part, change) for part in value) if isinstance(value, tuple) else value
