"""The one training loop: every stage that trains runs it, with its own objective and examples.

A run's state is the engine's, the random generators' and a few plain numbers. A step's examples and learning rate are
functions of the step number, so a killed run resumes exactly where it stopped.
"""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import torch
from torch import Tensor, nn

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml import rng
from alma_pipeline.ml.data.token_arrays import Split
from alma_pipeline.ml.distributed import World, all_gather, all_reduce_sum, barrier
from alma_pipeline.ml.models.causal import causal_model
from alma_pipeline.ml.models.open import TrainableModel
from alma_pipeline.ml.training.attention import unpacked_attention
from alma_pipeline.ml.training.batching import check_budget, global_batch_size
from alma_pipeline.ml.training.dev_set import DevScore, divergence
from alma_pipeline.ml.training.engine import Engine, adamw
from alma_pipeline.ml.training.interruption import full_device_halves_budget
from alma_pipeline.ml.training.microbatches import GlobalBatch, stream
from alma_pipeline.ml.training.objective import Objective
from alma_pipeline.ml.training.points import resume
from alma_pipeline.ml.training.points.point_writer import PointWriter
from alma_pipeline.ml.training.prefetch import Batch
from alma_pipeline.ml.training.schedule import evaluation_steps, learning_rate
from alma_pipeline.ml.training.selection import CheckpointSelector
from alma_pipeline.ml.training.step_log import Diverged, StepLog, TrainingStep
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.training import total_steps

Example = TypeVar("Example")
Norms = TypeVar("Norms")


@dataclass
class TrainingProgress:
    """How far a run is, in plain values; part of every resume point."""

    step: int = 0
    tokens: int = 0
    """Tokens trained on, prompts included."""
    labels: int = 0
    """Tokens that bore loss."""
    seconds: float = 0.0
    """Seconds of training steps, without evaluation and saving."""
    before: dict[str, float] = field(default_factory=dict)
    """Dev measures of the untrained parent."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """For each evaluation, `step` and the dev measures."""
    kept: dict[str, Any] | None = None
    """The best checkpoint so far, as `asdict` of it."""


def train(
    job: Job,
    world: World,
    trainee: TrainableModel,
    objective: Objective[Example, Norms],
    data: Split[Example],
    dev: Split[Example],
    score: DevScore | None = None,
) -> dict[str, Any]:
    """Train `trainee.model`, wrapped in `objective`, as `job.config` specifies, and write the best checkpoint to `job.out`.

    Returns the node's result. Raises UserError for impossible settings, Diverged if training diverges, and Again where another
    worker has to continue.
    """
    # Fail on impossible settings before the model is handed to DeepSpeed.
    config = job.config
    steps = total_steps(config, len(data.examples), data.tokens)
    _check(data, dev, job, score)
    # ZeRO-3 slices parameters, so they are counted before.
    parameters = count_parameters(trainee.model)
    # A machine may load much longer than another, and DeepSpeed's own waiting has a time limit.
    barrier()
    engine = Engine(objective, adamw(objective, config), config, job.hardware, world.size)
    log = StepLog(job, world, steps, objective.measures)
    loop = _Loop(job, world, trainee, objective, engine, data.examples, dev.examples, score, steps, log)
    # Resume if there is a resume point, then train.
    loop.resume()
    start_seconds = time.time() - psutil.Process().create_time()
    with log.notice.watched(), full_device_halves_budget(job, max(data.longest, dev.longest)):
        loop.run()
    # Only the selected checkpoint leaves the work folder.
    kept = loop.selection.publish(job.out, world)
    engine.close()
    progress = loop.progress
    return parameters | {
        "checkpoint": {"form": trainee.form},
        "steps": progress.step,
        "tokens": progress.tokens,
        "labels": progress.labels,
        "seconds": progress.seconds,
        "start_seconds": start_seconds,
        "tokens_per_second": progress.tokens / progress.seconds,
        "layout": objective.layout,
        "peak_memory_bytes": max(all_gather(_peak_memory(world.device))),
        "before": progress.before,
        "after": kept.measures,
        "chosen_step": kept.step,
        "evaluations": progress.evaluations,
    }


@dataclass
class _Loop(Generic[Example, Norms]):
    """The state of `train`, and the loop itself."""

    job: Job
    world: World
    trainee: TrainableModel
    objective: Objective[Example, Norms]
    engine: Engine
    data: Sequence[Example]
    dev: Sequence[Example]
    score: DevScore | None
    steps: int
    log: StepLog
    progress: TrainingProgress = field(default_factory=TrainingProgress)

    def __post_init__(self) -> None:
        self.selection = CheckpointSelector(Path(self.job.work), self.job.config.select_by, self.steps)
        self.topology = resume.Topology(self.world.size, self.job.hardware.zero_stage, self.job.config.precision)
        self.points = PointWriter(self.job.resume, self.engine, self.world, self.topology)

    def resume(self) -> None:
        """Restore the newest resume point, if there is one; otherwise start with fresh random generators."""
        rng.seed(self.job.config.seed, self.world.rank)
        point = resume.newest(self.job.resume, self.world, self.topology)
        if point:
            resume.restore(point, self.engine, self.world)
            self.progress = TrainingProgress(**point.progress)
        self.selection.resume(self.progress.kept, self.world)

    def run(self) -> None:
        """Train to the last step, evaluating and saving on the way."""
        evaluations = evaluation_steps(self.steps, self.job.config.evaluations)
        # The parent's measures are what a later checkpoint is compared with.
        if not self.progress.before:
            self.progress.before = self._measure()
        self.objective.train()  # models load in evaluation mode; a resumed run would otherwise skip dropout and recomputation
        # Batches are functions of the step, so they can be prepared ahead of the device.
        batches = map(self._batch, range(self.progress.step, self.steps))
        micro_batches = stream(self.objective, batches, self.world, self.job.hardware)
        self.log.restart_clock()
        # Losses are read from the device only at a flush: reading them at each step would stall it.
        while self.progress.step < self.steps:
            is_time = self.log.add(self._step(micro_batches))
            if is_time or self.progress.step in evaluations:
                self.progress.seconds += self.log.flush(self.points.is_writing)
                # The ranks have agreed on this in the flush: none waits here for another that is still writing.
                if self.points.is_pending and self.log.is_written:
                    self._complete_point()
            if self.progress.step in evaluations:
                self._evaluate()
            if self.log.end_is_due and self.progress.step < self.steps:
                self.save()
                raise self.log.notice.again(self.progress.step)
            if self.log.save_is_due and self.progress.step < self.steps:
                self._begin_point()
        if self.points.is_pending:
            self._complete_point()

    def _batch(self, step: int) -> list[Example]:
        """The examples of optimiser step `step`, counted from 0."""
        config = self.job.config
        return [self.data[place] for place in global_batch_size(step, config.global_batch_size, len(self.data), config.seed)]

    def _step(self, micro_batches: Iterator[tuple[GlobalBatch[Norms], Batch]]) -> TrainingStep:
        """Run one optimiser step on the next global batch."""
        progress = self.progress
        full_batch, totals = accumulate(self.engine, micro_batches, self.engine.backward)
        rate = learning_rate(self.job.config, progress.step, self.steps)
        self.engine.step(rate)
        progress.step, progress.tokens = progress.step + 1, progress.tokens + full_batch.tokens
        progress.labels += full_batch.labels
        return TrainingStep(progress.step, totals, self.engine.grad_norm, rate, full_batch.tokens, full_batch.labels)

    def _measure(self) -> dict[str, float]:
        """Measure the current weights on the dev set, and log the measures."""
        measures = evaluate(self.objective, self.engine, self.dev, self.world, self.job.hardware)
        if self.score:
            with unpacked_attention(causal_model(self.trainee.model), self.objective.attention):
                measures |= self.score(self.trainee.model)
        self.job.log(self.progress.step, self.steps, {f"dev/{name}": value for name, value in measures.items()})
        return measures

    def _evaluate(self) -> None:
        """Measure the current weights, stop if they have diverged, and keep them if they are the best."""
        step, progress = self.progress.step, self.progress
        measures = self._measure()
        progress.evaluations.append({"step": step} | measures)
        self._check_divergence(measures)
        if self.selection.is_better(step, measures):
            # The first step of a warm-up has learning rate 0 and changes nothing.
            self.selection.keep(step, measures, self.trainee, self.world, moved=self.engine.updates > 1)
        progress.kept = self.selection.state
        self.log.restart_clock()

    def _check_divergence(self, measures: dict[str, float]) -> None:
        """Raises Diverged if the measures are worse than the parent's by more than the configured limits."""
        wrong = divergence(self.job.config, self.progress.before, measures, f"after step {self.progress.step} of {self.steps}")
        if wrong:
            kept = self.selection.state
            raise Diverged(
                f"{wrong}. Log: {self.job.work}/metrics.jsonl. Last good checkpoint: "
                + (f"{self.job.work}/best-{kept['step']}" if kept else "the parent")
            )

    def save(self) -> None:
        """Write a resume point of the current step, unless there is one, and return when it counts. A collective call."""
        if self.points.is_pending:
            self._complete_point()
        if self.points.newest != self.progress.step:
            self._begin_point()
            self._complete_point()

    def _begin_point(self) -> None:
        """Begin to write a resume point; training continues meanwhile."""
        if self.points.is_pending:
            self._complete_point()
        self.points.begin(self.progress.step, asdict(self.progress))
        self.selection.mark_begun()
        self.log.mark_begun()
        self.log.restart_clock()

    def _complete_point(self) -> None:
        """Wait until the resume point is written, and make it count."""
        self.log.mark_complete(self.points.complete())
        self.selection.mark_complete(self.world)
        self.log.restart_clock()


def accumulate(
    engine: Engine, micro_batches: Iterator[tuple[GlobalBatch[Any], Batch]], use_loss: Callable[[Tensor], None]
) -> tuple[GlobalBatch[Any], dict[str, Tensor]]:
    """Run this rank's micro-batches of the next global batch of a stream; returns the batch and the objective's sums.

    `use_loss` takes each micro-batch's loss. The sums are over this rank's share, float64 scalars on the device. Raises
    ValueError if the stream ends within a batch.
    """
    totals: dict[str, Tensor] = {}
    rounds = 0
    for full_batch, batch in micro_batches:
        loss, sums = engine(batch, full_batch.norms)
        use_loss(loss)
        totals = {name: totals[name] + value for name, value in sums.items()} if totals else sums
        rounds += 1
        if rounds == full_batch.rounds:
            return full_batch, totals
    raise ValueError(f"the stream ended after {rounds} micro-batches of a global batch")


def evaluate(
    objective: Objective[Example, Norms], engine: Engine, dev: Sequence[Example], world: World, hardware: Hardware
) -> dict[str, float]:
    """The objective's measures of the current weights over all of `dev`, the same on every rank."""
    objective.eval()
    with torch.no_grad():
        _, totals = accumulate(engine, stream(objective, [dev], world, hardware), use_loss=lambda loss: None)
    objective.train()
    summed = all_reduce_sum(torch.stack(list(totals.values()))).tolist()
    return objective.measures(dict(zip(totals, summed, strict=True)))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters, and of trained ones; to be called before ZeRO-3 slices them."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"parameters": sum(n for n, _ in sizes), "trained_parameters": sum(n for n, trained in sizes if trained)}


def _check(data: Split[Any], dev: Split[Any], job: Job, score: DevScore | None) -> None:
    """Raises UserError for a dev set, a selection rule or a token budget that cannot work."""
    if not len(dev.examples):
        raise UserError("the dev set is empty; expected at least one example to measure: raise held_out")
    if job.config.select_by == "dev_score" and score is None:
        raise UserError(f"select_by=dev_score: {job.config.kind} has no dev score; use select_by=dev_loss or last")
    check_budget(data.longest, job.hardware.micro_batch_tokens, "training")
    check_budget(dev.longest, job.hardware.micro_batch_tokens, "dev")


def _peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
