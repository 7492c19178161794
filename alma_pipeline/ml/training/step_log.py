"""What each training step saw, kept on the device and summed over ranks every so often: reading a GPU's numbers at
every step would make it wait. Also tells all ranks alike when a resume point is due.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Job
from alma_pipeline.ml.distributed import World, total

FLUSH_SECONDS = 0.5
Measures = Callable[[dict[str, float]], dict[str, float]]


class Diverged(PipelineError):
    """Training went where nothing comes back from."""


@dataclass(frozen=True)
class Step:
    """One step, as this rank saw it."""

    number: int
    """Steps done, this one included."""
    totals: dict[str, Tensor]
    """The objective's sums over this rank's micro-batches, float64 on the device."""
    grad_norm: Tensor | float
    learning_rate: float
    tokens: int
    """Of the global batch, prompts included."""
    labels: int
    """Of the global batch, as its examples have them."""


class StepLog:
    """The steps since the last flush, and the clocks of flushing and saving."""

    def __init__(self, job: Job, world: World, steps: int, measures: Measures) -> None:
        """`steps` is the length of the run; `measures` turns summed totals into figures."""
        self.job, self.world, self.steps, self.measures = job, world, steps, measures
        self.pending: list[Step] = []
        self.interval = 1
        self.save_is_due = False
        self.began = self.saved = time.perf_counter()

    def note(self, step: Step) -> bool:
        """Take a step in; whether it is time to flush."""
        self.pending.append(step)
        return len(self.pending) >= self.interval

    def restart_clock(self) -> None:
        """What was done since the last flush was no training."""
        self.began = time.perf_counter()

    def note_save(self) -> None:
        """A resume point has just been written."""
        self.saved, self.save_is_due = time.perf_counter(), False

    def flush(self) -> float:
        """Sum the pending steps over the ranks, check them, log a line for each; the seconds they took.

        Raises Diverged for a loss or gradient that is no number, and PipelineError where micro-batches and ranks
        together did not see each label of the global batch once.
        """
        rows = self._summed()
        seconds = time.perf_counter() - self.began
        rate = sum(step.tokens for step in self.pending) / seconds
        for step, row in zip(self.pending, rows, strict=True):
            figures = self.measures(row) | {"learning_rate": step.learning_rate, "grad_norm": float(step.grad_norm)}
            self._check(step, row, figures)
            if not math.isfinite(figures["grad_norm"]):
                del figures["grad_norm"]  # an overflow of fp16; infinity is no JSON
            figures["tokens_per_second"] = rate
            self.job.log(step.number, self.steps, {f"train/{name}": value for name, value in figures.items()})
        self.pending = []
        self.restart_clock()
        return seconds

    def _summed(self) -> list[dict[str, float]]:
        """Each pending step's totals over all ranks; in the same message rank 0 says when to flush and save next."""
        names = list(self.pending[0].totals)
        table = torch.stack([torch.stack([step.totals[name] for name in names]) for step in self.pending])
        plan = torch.tensor(self._plan() if self.world.is_first else [0.0, 0.0], device=table.device)
        summed = total(torch.cat([table.flatten(), plan])).tolist()
        self.interval, self.save_is_due = int(summed[-2]), bool(summed[-1])
        return [dict(zip(names, summed[i : i + len(names)], strict=True)) for i in range(0, table.numel(), len(names))]

    def _plan(self) -> list[float]:
        now, every = time.perf_counter(), self.job.hardware.checkpoint_seconds
        step_seconds = (now - self.began) / len(self.pending)
        return [max(1, min(FLUSH_SECONDS, every) // step_seconds), float(now - self.saved >= every)]

    def _check(self, step: Step, row: dict[str, float], figures: dict[str, float]) -> None:
        if row["labels"] != step.labels:
            raise PipelineError(
                f"step {step.number} saw {row['labels']:.0f} labels in its micro-batches, but its global batch has {step.labels}"
            )
        # Under fp16 a gradient may overflow: that step is skipped and the loss scale lowered.
        may_overflow = self.job.config.precision == "fp16"
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(figures[name])]
        if wrong and not (may_overflow and wrong == ["grad_norm"]):
            raise Diverged(
                f"{wrong[0]} is {figures[wrong[0]]} at step {step.number} of {self.steps}; "
                f"see {self.job.work}/metrics.jsonl. A smaller learning_rate or a longer warm-up may help"
            )
