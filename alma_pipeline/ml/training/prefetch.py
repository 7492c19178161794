"""Bring micro-batches to the device. On a GPU, the next one is prepared and copied while the current one is computed."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = dict[str, Any]
"""Tensors, numbers, and dictionaries and tuples of them."""
Value = TypeVar("Value")
PREPARED = 2
"""Values that a thread prepares beyond the one that is copied: a long one is then rarely waited for (our choice)."""


def on_device(batches: Iterator[Value], device: torch.device) -> Iterator[Value]:
    """The same values, batches or tuples with one, in order, with their tensors on `device`.

    An exception raised while a value is prepared is raised here.
    """
    # Copying ahead helps only if the device computes on its own.
    return copied_ahead(batches, device) if device.type == "cuda" else batches


def copied_ahead(batches: Iterator[Value], device: torch.device) -> Iterator[Value]:
    """The same values on `device`, each copied before the work on the one before it begins.

    Copies are queued on the current stream, so that a value is there before it is used. torch keeps the pinned memory of a copy
    that is still queued (its allocator notes each copy), whoever else drops it.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming: deque[Future[Value | None]] = deque()
        ready: Value | None = None
        while True:
            # The thread works through its queue, one value at a time and in order.
            while len(coming) < PREPARED:
                coming.append(thread.submit(_next_pinned, batches, device))
            following = coming.popleft()
            error = following.exception()  # waits for it
            copied = None if error or (value := following.result()) is None else to_device(value, device)
            if ready is not None:
                yield ready
            if error:
                raise error
            if copied is None:
                return
            ready = copied


def _next_pinned(batches: Iterator[Value], device: torch.device) -> Value | None:
    """The next value in pinned memory, from which a copy to a GPU does not block the host; None after the last."""
    item = next(batches, None)
    return item if item is None or device.type != "cuda" else _map_tensors(item, Tensor.pin_memory)


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
