"""What a benchmark measures of an optimiser step: seconds, memory, floating-point operations."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Step = Callable[[list[Any]], float]
"""One optimiser step on a batch; returns its loss before the step."""


def memory(name: str) -> int:
    """Bytes of `VmRSS` (now) or `VmHWM` (the most since the mark was reset) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(name)


def gemm_rate(model: Any, tokens: int = 1024) -> float:
    """FLOP/s of the model's largest projection, forward and both backward products: the median of 9 rounds."""
    weight = model.model.layers[0].mlp.up_proj.weight.detach()
    states, outer = torch.randn(tokens, weight.shape[1]), torch.randn(tokens, weight.shape[0])
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(5):
            states @ weight.t(), outer @ weight, outer.t() @ states
        seconds.append(time.perf_counter() - start)
    return float(5 * 6 * tokens * weight.numel() / sorted(seconds)[4])


def useful_flops(model: Any, batch: list[Any], answers: int) -> float:
    """Matrix products that a step cannot do without: the layers on each prompt once and on `answers` of its answers,
    the head at the labels; forward, and backward at twice that. Attention among tokens is left out."""
    layers = sum(weight.numel() for weight in model.model.layers.parameters() if weight.ndim > 1)
    labels = [sum(len(side.ids) - side.prompt for side in pair[:answers]) for pair in batch]
    tokens_ = sum(pair[0].prompt for pair in batch) + sum(labels)
    return float(6 * (layers * tokens_ + model.lm_head.weight.numel() * sum(labels)))


def timed(step: Step, batch: Any) -> dict[str, float]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start = time.perf_counter()
    loss = step(batch)
    return {"seconds": time.perf_counter() - start, "loss": loss, "peak": memory("VmHWM")}
