"""Micro-batches that are prepared and copied ahead, and that a device works through without the host waiting for it."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alma_pipeline.ml.data.preference_pairs import PreferencePair
from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.training import prefetch
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.preference_losses import LossSettings, released_tau
from alma_pipeline.ml.training.preference_objective import PreferenceModel
from alma_pipeline.ml.training.prefetch import PREPARED, copied_ahead
from helpers.objective_models import llama

CPU = torch.device("cpu")
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero", "lift_fresh"}
"""ATen operations whose result or argument the host has to wait for on a GPU; the last makes a tensor from Python's numbers."""


class Seen(TorchDispatchMode):
    """The operations that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, dict[str, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.__name__.split(".")[0]] = kwargs or {}
        return func(*args, **(kwargs or {}))


def test_each_value_is_copied_before_the_one_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is then on the stream ahead of that one's work; two more are prepared."""
    made, copied = [], []
    ready, to_device = threading.Semaphore(0), prefetch.to_device

    def values() -> Iterator[tuple[int, torch.Tensor]]:
        for number in range(6):
            made.append(number)
            ready.release()
            yield number, torch.full((2,), number)

    def noted(value: Any, device: torch.device) -> Any:
        copied.append(value[0])
        return to_device(value, device)

    monkeypatch.setattr(prefetch, "to_device", noted)
    found = copied_ahead(values(), CPU)
    assert next(found)[0] == 0 and copied == [0, 1]
    for _ in range(2 + PREPARED - 1):  # the thread is at its work without being asked
        assert ready.acquire(timeout=60)
    assert [(number, tensor.tolist()) for number, tensor in found] == [(number, [number] * 2) for number in range(1, 6)]
    assert copied == made == list(range(6))


@pytest.mark.parametrize("kind", ["language", "preferences", "arpo", "dpo"])
def test_the_host_waits_for_nothing_within_a_micro_batch(kind: str) -> None:
    random = np.random.default_rng(0)

    def ids(count: int) -> np.ndarray:
        return random.integers(3, 60, count, np.int32)

    objective: Any
    examples: list[Any]
    if kind == "language":
        objective, examples = LanguageModel(llama(), 64), [Tokens(ids(9), 3), Tokens(ids(5), 1)]
    else:
        tau, loss = (released_tau(True) if kind == "arpo" else None), ("dpo" if kind == "dpo" else "cpo")
        objective = PreferenceModel(llama(), 64, LossSettings(0.3, 1.0, "token", tau, loss))
        examples = [PreferencePair(ids(3), ids(4), ids(2), (-3.0, -4.0)) for _ in range(2)]
    batch, norms = objective.collate(examples), objective.norms(examples)
    assert objective.layout == "packed"
    objective.train()
    with Seen() as seen:
        loss, _ = objective(batch, norms)
        loss.backward()
    assert not WAITING & seen.calls.keys()
    assert len(seen.calls) > 20 and all(weight.grad is not None for weight in objective.parameters())
    if kind != "language":
        assert seen.calls["segment_reduce"]["unsafe"]
