"""The forward pass of a decoding step: called as it is, or recorded once per shape of the batch and replayed.

A recorded step saves the time in which Python launches some ten kernels per layer. A recording is trusted only after one
replay, on inputs other than those recorded, gave what the plain call gives. Knows neither caches nor searches.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

ROWS = 16
"""Recorded batches have a multiple of this many rows, so that their shapes recur (our choice)."""
COLUMNS = 64
"""Likewise for the columns of the cache (our choice)."""
RECORDINGS = 4
"""Recordings kept at a time; each holds the activations of one step (our choice)."""
TOLERANCE = 0.01
"""Largest difference of logits, as a share of the largest logit, that is rounding in 16 bits (our choice)."""
UNFINISHED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose recording CUDA broke off. torch's allocators still refer to them (`CUDAGraph.cpp`), so they are kept, and this
process records no others."""
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Tokens [R, w], positions [R, w] and an additive mask [R, 1, g * w, C] -> logits [R, w, V]."""
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records a call on the device; returns what replays it."""


class WrongReplayError(Exception):
    """A replayed step differs from the plain one, and the cache may be spoilt: decode the batch again, without recording."""


def cuda_graph(call: Callable[[], None]) -> Callable[[], None]:
    """Record a call as a CUDA graph. Other threads may use the device meanwhile."""
    graph, pool, current = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
            call()
    except RuntimeError:
        # torch would leave its allocator recording, which then keeps memory that others need.
        with contextlib.suppress(RuntimeError):  # it has ended, as where the device is full
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            UNFINISHED.append(graph)
        raise
    finally:
        # torch would leave its recording stream as the current one.
        torch.cuda.set_stream(current)
    replay: Callable[[], None] = graph.replay
    return replay


class Steps:
    """Runs `forward` on batches whose shape changes rarely; with `capture`, on inputs at fixed addresses."""

    def __init__(self, forward: Forward, capture: Capture | None) -> None:
        self.forward, self.capture = forward, capture
        self.recordings: OrderedDict[tuple[int, ...], _Recording] = OrderedDict()
        self.failed = False

    def forget(self) -> None:
        """Drop all recordings: what they read has moved."""
        self.recordings.clear()

    def __call__(self, tokens: Tensor, positions: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Logits [S, w, V] of S real rows. The cache has `rows` of them, at least S. Raises WrongReplayError."""
        if not self.capture:
            return self.forward(tokens, positions, mask)
        key, count = (rows, *mask.shape[1:]), len(tokens)
        recording = self.recordings.pop(key, None) or _Recording((tokens, positions, mask), rows)
        self.recordings[key] = recording
        if len(self.recordings) > RECORDINGS:
            self.recordings.popitem(last=False)
        for fixed, now in zip(recording.inputs, (tokens, positions, mask), strict=True):
            fixed[:count] = now
        if recording.trusted:
            recording.replay()
            return recording.logits[:count]
        # The first step of a shape is recorded, the second compared: a recording that repeats the first one would pass there.
        logits = self.forward(*recording.inputs)
        if recording.recorded:
            recording.replay()
            self._compare(recording, logits[:count])
        elif not self.failed:
            self._record(recording)
        return logits[:count]

    def _record(self, recording: "_Recording") -> None:
        """Record the step; where that fails, all later steps are plain calls."""
        assert self.capture

        def step() -> None:
            recording.logits = self.forward(*recording.inputs)

        try:
            recording.replay = self.capture(step)
            recording.recorded = True
        except RuntimeError as problem:
            self.failed = True
            print(f"a decoding step cannot be recorded as a CUDA graph ({problem}); steps are launched one by one", flush=True)

    def _compare(self, recording: "_Recording", logits: Tensor) -> None:
        """Trust a recording whose replay gave these logits, up to rounding."""
        error = float((recording.logits[: len(logits)] - logits).abs().max() / logits.abs().max())
        if not error <= TOLERANCE:
            raise WrongReplayError(f"a decoding step replayed as a CUDA graph has an error of {error:.2g}")
        recording.trusted = True


class _Recording:
    """Inputs and logits of one shape at fixed addresses."""

    def __init__(self, like: tuple[Tensor, Tensor, Tensor], rows: int) -> None:
        self.inputs = tuple(one.new_zeros(rows, *one.shape[1:]) for one in like)
        self.logits = torch.empty(0)
        self.replay: Callable[[], None] = lambda: None
        self.recorded = self.trusted = False
