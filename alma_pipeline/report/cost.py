"""What the recipe cost: time, tokens, memory, disk and, where the machine counts it, energy; by node and in all."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.plan.node import is_training
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.store.record import Record

PHASES = ("preparation", "training", "preferences", "evaluation")


@dataclass(frozen=True)
class NodeCost:
    """What a node took."""

    node: str
    part: str
    seconds: float
    """From start to commit, on all of the node's devices at once."""
    device_seconds: float
    tokens: int
    """Trained on, or generated."""
    tokens_per_second: float
    memory: int
    """Bytes at the peak, of one device; 0: not measured."""
    disk: int
    hardware: str
    joules: float | None = None
    """None: no counter could be read."""
    rows: str = ""
    """Of a training, how examples lay in micro-batches: `packed`, or `padded` where the architecture is wrong on packed rows."""
    energy_of: str = ""
    """What the counters belong to: `GPUs and CPU packages`."""


@dataclass(frozen=True)
class CostTotal:
    """What the nodes of a part took together."""

    part: str
    seconds: float
    device_seconds: float
    tokens: int
    disk: int
    joules: float | None = None
    """Of the nodes where it is known; None where it is of none."""


def node_costs(jobs: list[ReportJob]) -> list[NodeCost]:
    """Of every artifact once, however many jobs share it."""
    found: dict[str, NodeCost] = {}
    for job in jobs:
        for step in job.plan.steps:
            record = job.records.get(step.node.name)
            if record and not record.alias_of:
                found.setdefault(record.key, _cost(step.node.name, _part(step.node.kind, is_training(step.node)), record))
    return list(found.values())


def cost_totals(found: list[NodeCost]) -> Iterator[CostTotal]:
    """By part, and in all."""
    for part in (*PHASES, "in all"):
        rows = [row for row in found if part in (row.part, "in all")]
        if rows:
            yield CostTotal(
                part,
                sum(row.seconds for row in rows),
                sum(row.device_seconds for row in rows),
                sum(row.tokens for row in rows),
                sum(row.disk for row in rows),
                sum(known) if (known := [row.joules for row in rows if row.joules is not None]) else None,
            )


def energy_note(found: list[NodeCost]) -> str:
    """What the energy's figures are, in a sentence; empty where there are none."""
    known = [row for row in found if row.joules is not None]
    if not known:
        return ""
    what = "; ".join(dict.fromkeys(row.energy_of for row in known))
    where = f"known of {len(known)} of {len(found)} nodes"
    return f"Energy by the machine's own counters ({what}), whoever else used it meanwhile; {where}."


def _part(kind: str, trains: bool) -> str:
    if trains:
        return "training"
    return {"preferences": "preferences", "translate": "evaluation", "outputs": "evaluation", "score": "evaluation"}.get(
        kind, "preparation"
    )


def _cost(node: str, part: str, record: Record) -> NodeCost:
    result, hardware = record.result, record.hardware
    devices = hardware.get("devices", 1) * hardware.get("nodes", 1) if part == "training" else 1
    tokens = int(result.get("tokens", 0) or result.get("output_tokens", 0))
    rate = result.get("tokens_per_second") or (tokens / result["seconds"] if tokens and result.get("seconds") else 0.0)
    return NodeCost(
        node,
        part,
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
