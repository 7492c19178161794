"""Bring micro-batches to the device. On a GPU, the next one is prepared and copied while the current one is computed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = dict[str, Any]
"""Tensors, numbers, and dictionaries and tuples of them."""
Value = TypeVar("Value")


def on_device(batches: Iterator[Value], device: torch.device) -> Iterator[Value]:
    """The same values, batches or tuples with one, in order, with their tensors on `device`.

    An exception raised while a value is prepared is raised here.
    """
    # Copying ahead helps only if the device computes on its own.
    if device.type != "cuda":
        yield from batches
        return
    with ThreadPoolExecutor(max_workers=1) as ahead:
        coming = ahead.submit(_next_pinned, batches)
        while (batch := coming.result()) is not None:
            coming = ahead.submit(_next_pinned, batches)
            yield to_device(batch, device)


def _next_pinned(batches: Iterator[Value]) -> Value | None:
    """The next value in pinned memory, from which a copy does not block the host; None after the last."""
    item = next(batches, None)
    return None if item is None else _map_tensors(item, Tensor.pin_memory)


def to_device(item: Value, device: torch.device) -> Value:
    """The value with its tensors on `device`."""
    on_target: Value = _map_tensors(item, lambda tensor: tensor.to(device, non_blocking=True))
    return on_target


def _map_tensors(value: Any, function: Any) -> Any:
    """`value` with `function` applied to each tensor in it; everything else unchanged."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _map_tensors(part, function) for name, part in value.items()}
    return tuple(_map_tensors(part, function) for part in value) if isinstance(value, tuple) else value
