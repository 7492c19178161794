"""Logs training steps. Their values stay on the device and are summed over ranks at intervals: reading a GPU's numbers at
every step would stall it. From the same message all ranks learn when a resume point is due, when all have written theirs,
and whether any of them is asked to end.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Job
from alma_pipeline.ml.distributed import World, all_reduce_sum
from alma_pipeline.ml.training.interruption import Notice

FLUSH_SECONDS = 0.5
"""Target time between flushes, in seconds."""
SPARING = 20
"""The least time between two resume points, as a multiple of what the last one took to write (our choice)."""
Measures = Callable[[dict[str, float]], dict[str, float]]
"""From totals to the measures to log; see `Objective.measures`."""


class Diverged(PipelineError):
    """Training diverged: a non-finite loss or gradient, or worse than the parent by more than the configured limits."""


@dataclass(frozen=True)
class TrainingStep:
    """One training step as this rank saw it."""

    number: int
    """Steps done, including this one."""
    totals: dict[str, Tensor]
    """The objective's sums over this rank's micro-batches, float64 scalars on the device."""
    grad_norm: Tensor | float
    learning_rate: float
    tokens: int
    """Of the global batch, prompts included."""
    labels: int
    """Of the global batch, counted from its examples."""


class StepLog:
    """The steps since the last flush, and the clocks of flushing and saving."""

    def __init__(self, job: Job, world: World, steps: int, measures: Measures) -> None:
        """`steps` is the length of the run; `measures` turns summed totals into the values to log."""
        self.job, self.world, self.steps, self.measures = job, world, steps, measures
        self.pending: list[TrainingStep] = []
        self.interval = 1
        self.save_is_due = False
        self.notice, self.end_is_due = Notice(job), False
        self.is_written = True
        """Whether no rank is still writing its files of a resume point, as of the last flush."""
        self.began = self.saved = time.perf_counter()
        self._saving_seconds: float | None = 0.0

    def add(self, step: TrainingStep) -> bool:
        """Add a step; returns whether it is time to flush."""
        self.pending.append(step)
        return len(self.pending) >= self.interval

    def restart_clock(self) -> None:
        """Exclude the time since the last flush, which was not spent on training."""
        self.began = time.perf_counter()

    def mark_begun(self) -> None:
        """Record that a resume point is being written."""
        self.saved, self.save_is_due, self._saving_seconds = time.perf_counter(), False, None

    def mark_complete(self, seconds: float) -> None:
        """Record that the resume point is written, and how long that took."""
        self._saving_seconds = seconds

    def flush(self, is_writing: bool) -> float:
        """Sum the pending steps over ranks, check them, and log a line for each; returns the seconds they took.

        `is_writing`: whether this rank is still writing its files of a resume point.
        Raises Diverged for a non-finite loss or gradient, and PipelineError if the micro-batches of all ranks together did not
        contain each label of the global batch once.
        """
        # The only point at which the host waits for the device.
        rows = self._summed(is_writing)
        seconds = time.perf_counter() - self.began
        rate = sum(step.tokens for step in self.pending) / seconds
        for step, row in zip(self.pending, rows, strict=True):
            figures = self.measures(row) | {"learning_rate": step.learning_rate, "grad_norm": float(step.grad_norm)}
            self._check(step, row, figures)
            if not math.isfinite(figures["grad_norm"]):
                del figures["grad_norm"]  # an fp16 overflow; JSON has no infinity
            figures["tokens_per_second"] = rate
            self.job.log(step.number, self.steps, {f"train/{name}": value for name, value in figures.items()})
        self.pending = []
        self.restart_clock()
        return seconds

    def _summed(self, is_writing: bool) -> list[dict[str, float]]:
        """Each pending step's totals over all ranks.

        Each rank adds to the same message whether it is to end and whether it is still writing, and rank 0 when to flush and
        save next.
        """
        names = list(self.pending[0].totals)
        table = torch.stack([torch.stack([step.totals[name] for name in names]) for step in self.pending])
        own = (float(self.notice.is_given), float(is_writing))
        plan = torch.tensor([*own, *(self._plan() if self.world.is_first else (0.0, 0.0))], device=table.device)
        summed = all_reduce_sum(torch.cat([table.flatten(), plan])).tolist()
        self.end_is_due, self.is_written = bool(summed[-4]), not summed[-3]
        self.interval, self.save_is_due = int(summed[-2]), bool(summed[-1])
        return [dict(zip(names, summed[i : i + len(names)], strict=True)) for i in range(0, table.numel(), len(names))]

    def _plan(self) -> tuple[float, float]:
        """The number of steps until the next flush, and whether to save (1 or 0)."""
        now, every = time.perf_counter(), self.job.hardware.checkpoint_seconds
        step_seconds = (now - self.began) / len(self.pending)
        # A point that is still being written has taken all the time since it began.
        since = now - self.saved
        taken = since if self._saving_seconds is None else self._saving_seconds
        return max(1, min(FLUSH_SECONDS, every) // step_seconds), float(since >= max(every, SPARING * taken))

    def _check(self, step: TrainingStep, row: dict[str, float], figures: dict[str, float]) -> None:
        """Raises PipelineError for lost or repeated labels, and Diverged for non-finite values."""
        if row["labels"] != step.labels:
            raise PipelineError(
                f"step {step.number} saw {row['labels']:.0f} labels in its micro-batches, but its global batch has {step.labels}"
            )
        # Under fp16 a gradient may overflow: DeepSpeed skips that step and lowers the loss scale.
        may_overflow = self.job.config.precision == "fp16"
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(figures[name])]
        if wrong and not (may_overflow and wrong == ["grad_norm"]):
            raise Diverged(
                f"{wrong[0]} is {figures[wrong[0]]} at step {step.number} of {self.steps}; "
                f"see {self.job.work}/metrics.jsonl. A smaller learning_rate or a larger warmup_ratio may help"
            )
