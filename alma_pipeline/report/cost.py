"""The cost of a recipe by node, by phase and in total: time, tokens, memory, disk, and energy if it was measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.plan.node import is_training
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.store.record import Record

PHASES = ("preparation", "training", "preferences", "evaluation")
TOTAL = "total"


@dataclass(frozen=True)
class NodeCost:
    """The cost of one artifact."""

    node: str
    phase: str
    """One of `PHASES`."""
    seconds: float
    """Wall-clock time from start to commit."""
    device_seconds: float
    """`seconds` times the number of devices."""
    tokens: int
    """Trained on, or generated."""
    tokens_per_second: float
    memory: int
    """Peak bytes on one device; 0: not measured."""
    disk: int
    """Bytes."""
    hardware: str
    joules: float | None = None
    """None: no counter was readable."""
    layout: str = ""
    """Training nodes: how micro-batches are laid out, `packed`, or `padded` if the architecture is wrong on packed rows."""
    energy_of: str = ""
    """What the energy counters cover: `GPUs and CPU packages`."""


@dataclass(frozen=True)
class CostTotal:
    """The cost of all nodes of one phase, or of all phases."""

    phase: str
    seconds: float
    device_seconds: float
    tokens: int
    disk: int
    joules: float | None = None
    """Sum over the nodes that measured it; None if no node did."""


def node_costs(jobs: list[ReportJob]) -> list[NodeCost]:
    """One entry per artifact, even if several jobs share it."""
    found: dict[str, NodeCost] = {}
    for job in jobs:
        for step in job.plan.steps:
            record = job.records.get(step.node.name)
            if record and not record.alias_of:
                found.setdefault(record.key, _cost(step.node.name, _phase(step.node.kind, is_training(step.node)), record))
    return list(found.values())


def cost_totals(found: list[NodeCost]) -> Iterator[CostTotal]:
    """Sums by phase, then the total. Phases without nodes are left out."""
    for phase in (*PHASES, TOTAL):
        rows = [row for row in found if phase in (row.phase, TOTAL)]
        if rows:
            yield CostTotal(
                phase,
                sum(row.seconds for row in rows),
                sum(row.device_seconds for row in rows),
                sum(row.tokens for row in rows),
                sum(row.disk for row in rows),
                sum(known) if (known := [row.joules for row in rows if row.joules is not None]) else None,
            )


def energy_note(found: list[NodeCost]) -> str:
    """A sentence on what the energy figures include; empty if there are none."""
    known = [row for row in found if row.joules is not None]
    if not known:
        return ""
    what = "; ".join(dict.fromkeys(row.energy_of for row in known))
    coverage = f"measured for {len(known)} of {len(found)} nodes"
    return f"Energy is read from the machine's counters ({what}) and includes other work on the machine; {coverage}."


def _phase(kind: str, trains: bool) -> str:
    if trains:
        return "training"
    return {"preferences": "preferences", "translate": "evaluation", "system_outputs": "evaluation", "score": "evaluation"}.get(
        kind, "preparation"
    )


def _cost(node: str, phase: str, record: Record) -> NodeCost:
    result, hardware = record.result, record.hardware
    # Only training is counted on all devices.
    devices = hardware.get("devices", 1) * hardware.get("nodes", 1) if phase == "training" else 1
    # Training records `tokens` and their rate, decoding `output_tokens` and `seconds`.
    tokens = int(result.get("tokens", 0) or result.get("output_tokens", 0))
    rate = result.get("tokens_per_second") or (tokens / result["seconds"] if tokens and result.get("seconds") else 0.0)
    return NodeCost(
        node,
        phase,
        record.seconds,
        record.seconds * devices,
        tokens,
        float(rate),
        int(result.get("peak_memory_bytes", 0)),
        sum(record.files.values()),
        f"{devices} × {hardware.get('device', '')}" if hardware else "",
        result.get("energy_joules"),
        result.get("layout", ""),
        result.get("energy_of", ""),
    )
