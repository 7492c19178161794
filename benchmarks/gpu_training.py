"""Cases of `gpu.py` that train: real stages on random weights, with memory and speed beside the plan's estimates."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_beds import ANSWER, PROMPT, Bed, lora
from gpu_figures import Figure

from alma_pipeline.ml.training import loop
from alma_pipeline.ml.training.step_log import TrainingStep
from alma_pipeline.plan.estimates import model_size
from alma_pipeline.plan.estimates.estimate import estimate
from alma_pipeline.plan.estimates.node_estimate import Counts, Estimate
from alma_pipeline.schema import Architecture
from stages.parallel.run import run

STEPS, UNTIMED = 8, 3
"""Steps of a case, and how many of them come before the clock starts: kernels are chosen and memory is reserved in them."""
PAIRS = 256
UTILISATION = 0.5
"""The aim: half of the rate of a large matrix product."""
MARGIN = 1.02
"""How much more than the estimate a device may hold: it must fit where the plan allows it to run."""


def train(bed: Bed, shape: str, rank: int | None = None, quantization: str = "none", **hardware: Any) -> list[Figure]:
    """Train pairs for some steps, all weights or a LoRA of this rank."""
    architecture = bed.shape(shape)
    machine = dataclasses.replace(bed.hardware(**hardware), flops=matmul_rate(bed))
    settings: dict[str, Any] = {"steps": STEPS, "global_batch_size": batch_size(bed), "learning_rate": 1e-6, "seed": 1}
    settings |= {"adapter": "new", "lora": lora(min(rank, 8) if bed.dry else rank)} if rank else {}
    settings |= {"precision": "bf16", "quantization": quantization, "select_by": "last", "evaluations": 1}
    inputs = {"init": bed.base(shape), "corpus": bed.pairs(4 * settings["global_batch_size"], architecture.vocab_size)}
    job = bed.job("parallel", inputs, machine, **settings)
    _forget_peaks(bed)
    with timed_steps(bed) as steps:
        result = run(job)
    shutil.rmtree(job.work)  # a resume point of 1B takes 17 GB
    tokens = result["tokens"]
    counts = Counts(examples=result["steps"] * settings["global_batch_size"], tokens=tokens, exact=True, dev_examples=8)
    found = estimate("parallel", job.config, bed.model(shape), machine, counts)
    assert found is not None
    return [*speed(bed, architecture, steps, machine.flops, rank), *memory(bed, found, result["peak_memory_bytes"])]


def points(bed: Bed) -> list[Figure]:
    """How long a resume point holds up training, beside a step; 1B full, whose state is 17 GB."""
    with timed("_begin_point") as begun, timed("_complete_point") as completed:
        figures = {figure.name: figure for figure in train(bed, "1b", checkpoint_seconds=1e-3)}
    pauses = [*begun, *completed]
    step = batch_size(bed) * sum(sum(limits) / 2 for limits in (PROMPT, ANSWER)) / figures["tokens per second"].measured
    return [
        Figure(name="resume points", measured=float(len(begun)), wrong=not begun),
        Figure(
            name="longest pause of training by them", measured=max(pauses, default=0.0), unit="s", expected=step, note="a step"
        ),
    ]


def batch_size(bed: Bed) -> int:
    """Pairs of an optimiser step."""
    return 8 if bed.dry else PAIRS


@contextmanager
def timed(method: str) -> Iterator[list[float]]:
    """The seconds of each call of one of the loop's methods."""
    found: list[float] = []
    original = getattr(loop._Loop, method)

    def call(self: Any) -> None:
        start = time.perf_counter()
        original(self)
        found.append(time.perf_counter() - start)

    setattr(loop._Loop, method, call)
    try:
        yield found
    finally:
        setattr(loop._Loop, method, original)


@contextmanager
def timed_steps(bed: Bed) -> Iterator[list[tuple[float, TrainingStep]]]:
    """The optimiser steps of a training with their seconds, the device waited for."""
    found: list[tuple[float, TrainingStep]] = []
    original = loop._Loop._step

    def step(self: Any, micro_batches: Any) -> TrainingStep:
        _wait(bed)
        start = time.perf_counter()
        done = original(self, micro_batches)
        _wait(bed)
        found.append((time.perf_counter() - start, done))
        return done

    loop._Loop._step = step  # type: ignore[assignment, method-assign]
    try:
        yield found
    finally:
        loop._Loop._step = original  # type: ignore[method-assign]


def speed(
    bed: Bed, shape: Architecture, steps: list[tuple[float, TrainingStep]], rate: float, rank: int | None
) -> Iterator[Figure]:
    """Tokens per second, and the share of the device's own rate that the step's necessary products are."""
    timed = steps[UNTIMED:]
    seconds, tokens = sum(second for second, _ in timed), sum(step.tokens for _, step in timed)
    useful = necessary_flops(shape, tokens, sum(step.labels for _, step in timed), rank)
    yield Figure(name="tokens per second", measured=tokens / seconds, unit="tokens/s")
    yield Figure(name="model FLOP utilisation", measured=useful / seconds / rate, expected=UTILISATION)
    yield Figure(name="matrix products alone", measured=rate / 1e12, unit="TFLOP/s")


def necessary_flops(shape: Architecture, tokens: int, labels: int, rank: int | None) -> float:
    """Matrix products that no training can do without: the layers once per token, the head at the labels, attention left out.

    6 FLOPs per trained weight and token, 4 per frozen one (Kaplan et al. 2020, sec. 2.1), recomputation not counted.
    """
    head = shape.vocab_size * shape.hidden_size
    layers, each = model_size.multiplied(shape) - head, 4 if rank else 6
    adapter = 6 * model_size.lora_parameters(shape, lora(rank)) * tokens if rank else 0
    return float(each * (layers * tokens + head * labels) + adapter)


def memory(bed: Bed, found: Estimate, peak: int) -> Iterator[Figure]:
    """The peak beside the estimate; more than estimated is wrong on a device."""
    wrong = not bed.dry and peak > MARGIN * found.memory_bytes
    expected = found.memory_bytes / 1e9
    yield Figure(name="peak memory, allocated", measured=peak / 1e9, unit="GB", expected=expected, wrong=wrong)
    if not bed.dry:
        reserved = torch.cuda.max_memory_reserved() / 1e9
        yield Figure(name="peak memory, reserved", measured=reserved, unit="GB", expected=expected)


def matmul_rate(bed: Bed) -> float:
    """FLOP/s of a large square bf16 product."""
    size = 256 if bed.dry else 8192
    one = torch.randn(size, size, device=bed.device, dtype=torch.bfloat16)
    for _ in range(5):
        one @ one
    _wait(bed)
    start = time.perf_counter()
    for _ in range(20):
        one @ one
    _wait(bed)
    return 20 * 2 * size**3 / (time.perf_counter() - start)


def _wait(bed: Bed) -> None:
    if not bed.dry:
        torch.cuda.synchronize()


def _forget_peaks(bed: Bed) -> None:
    if not bed.dry:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
