"""What a plan's training needs besides a device's memory: recomputed activations, resume points, memory of the host."""

from collections.abc import Iterator

from rich.text import Text

from alma_pipeline.execution.out_of_memory import available_bytes
from alma_pipeline.plan.estimates.estimate import WRITE_RATE
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import Hardware, Training
from alma_pipeline.units import rough_duration, size


def lines(plan: Plan, hardware: Hardware) -> Iterator[Text]:
    """A line for each that this plan needs."""
    trained = {step.node.name: step.estimate for step in plan.steps if step.estimate and isinstance(step.node.config, Training)}
    if recomputed := [name for name, estimate in trained.items() if estimate.gradient_checkpointing]:
        yield Text(f"gradient checkpointing (activations are recomputed): {', '.join(recomputed)}")
    written = [
        f"{name} {_points(estimate)}"
        for name, estimate in trained.items()
        if estimate.resume_points and estimate.resume_seconds >= 1
    ]
    if written:
        yield Text(f"resume points, at {size(WRITE_RATE)}/s: {', '.join(written)}")
    needed = max((estimate.host_bytes for estimate in trained.values()), default=0)
    # Otherwise it is the processes' own, whatever the model.
    if needed and (hardware.offload != "none" or hardware.zero_stage == 3):
        yield _host(needed, hardware)


def _points(estimate: Estimate) -> str:
    return f"{estimate.resume_points:,} x {size(estimate.resume_bytes)} ({rough_duration(estimate.resume_seconds)} each)"


def _host(needed: int, hardware: Hardware) -> Text:
    """The host's memory that training takes; red if this machine, where it would run, has less."""
    text = f"host memory: up to {size(needed)} per machine"
    # On a cluster or with several machines, this one may be another than those that train.
    if hardware.launcher in ("slurm", "deepspeed") or hardware.nodes > 1 or needed <= (available := available_bytes()):
        return Text(text)
    ways = ["hardware.offload=none"] if hardware.offload != "none" else []
    ways += ["hardware.zero_stage=2, which reads weights straight into a device"] if hardware.zero_stage == 3 else []
    advice = f"; try {' or '.join(ways)}" if ways else ""
    return Text(f"{text}, but this one has {size(available)}{advice}", style="bold red")
