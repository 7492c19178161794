"""The plan as a terminal table: what will run, why, how long, how big. Decides nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Group
from rich.table import Table
from rich.text import Text

from alma_pipeline.plan.estimate import LEFT_OUT, Estimate
from alma_pipeline.plan.plan import Cause, Plan, Step
from alma_pipeline.schema import Hardware, Training
from alma_pipeline.units import about, count, size

COLOURS = {"reuse": "green", "adopt": "cyan", "resume": "yellow", "run": "bold yellow", "skip": "dim"}
NUMBERS = ("steps", "tokens", "memory", "disk", "time")
DISPENSABLE = ("disk", "tokens", "memory", "steps")
"""What a narrow terminal goes without, first to last: never the reasons."""
WHY = 30
"""Columns that the reasons get at least, or what they need."""


@dataclass(frozen=True)
class Row:
    """One line: a node, or a checkpoint's translations together with their scores."""

    name: str
    verdict: str
    numbers: dict[str, str]
    why: str


def plan_table(plan: Plan, hardware: Hardware, width: int) -> Group:
    """A line for each node with something to say, the others by name, and the sums; for so many columns."""
    parts: list[Table | Text] = []
    rows = list(_rows(plan))
    if rows:
        parts.append(_table(rows, width))
    for verdict in ("reuse", "skip"):
        names = [step.node.name for step in plan.steps if step.verdict == verdict and _silent(step)]
        if names:
            label = (f"{verdict} ({len(names)}): ", COLOURS[verdict])
            parts.append(Text.assemble("\n" if rows else "", label, (", ".join(names), "dim")))
    return Group(*parts, *_summary(plan, hardware))


def _silent(step: Step) -> bool:
    """Whether the verdict says it all."""
    return step.verdict == "skip" or (step.verdict == "reuse" and not step.reason)


def _rows(plan: Plan) -> Iterable[Row]:
    steps = [step for step in plan.steps if not _silent(step)]
    merged: set[str] = set()
    for step, after in pairwise([*steps, None]):
        assert step is not None
        if step.node.name in merged:
            continue
        name = step.node.name
        if after and _together(step, after):
            merged.add(after.node.name)
            name = f"{name}, .score"
        yield Row(name, step.verdict, _numbers(step), step.reason)


def _together(translate: Step, score: Step) -> bool:
    """Whether a checkpoint's translations and their scores share their fate, for one reason or the one for the other."""
    if score.node.inputs != {"hypotheses": translate.node.name} or translate.verdict != score.verdict or score.estimate:
        return False
    return score.reason == translate.reason or score.cause is Cause.INPUTS_CHANGED


def _table(rows: list[Row], width: int) -> Table:
    shown = _columns(rows, width)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("node", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold", min_width=min(WHY, max(len(row.why) for row in rows)))
    for row in rows:
        table.add_row(row.name, Text(row.verdict, style=COLOURS[row.verdict]), *(row.numbers[name] for name in shown), row.why)
    return table


def _columns(rows: list[Row], width: int) -> list[str]:
    """The columns of numbers that leave room for the reasons; those without a number are left out too."""
    shown = [name for name in NUMBERS if any(row.numbers[name] for row in rows)]
    fixed = max(len(row.name) for row in rows) + max(len(row.verdict) for row in rows) + 4
    fixed += min(WHY, max(len(row.why) for row in rows))
    sizes = {name: max(len(name), *(len(row.numbers[name]) for row in rows)) + 2 for name in shown}
    for name in DISPENSABLE:
        if fixed + sum(sizes[other] for other in shown) > width and name in shown:
            shown.remove(name)
    return shown


def _numbers(step: Step) -> dict[str, str]:
    estimate = step.estimate
    if estimate is None:
        return dict.fromkeys(NUMBERS, "")
    config = step.node.config
    exact = estimate.exact or (isinstance(config, Training) and config.steps is not None)
    return {
        "steps": f"{'' if exact else '≈'}{estimate.steps:,}" if estimate.steps else "",
        "tokens": f"≈{count(estimate.tokens)}" if estimate.tokens else "",
        "memory": f"{size(estimate.memory_bytes)}{'' if estimate.fits else ' !'}" if estimate.memory_bytes else "",
        "disk": size(estimate.disk_bytes) if estimate.disk_bytes else "",
        "time": f"≈{about(estimate.seconds)}" if estimate.seconds else "",
    }


def _summary(plan: Plan, hardware: Hardware) -> Iterable[Text]:
    verdicts = [step.verdict for step in plan.steps]
    yield Text(
        f"\n{len(plan.steps)} nodes: {', '.join(f'{verdicts.count(name)} {name}' for name in COLOURS if name in verdicts)}"
    )
    estimates = [step.estimate for step in plan.steps if step.estimate]
    if not estimates:
        return
    total = f"about {about(sum(estimate.seconds for estimate in estimates) / hardware.side_by_side)}"
    unknown = [step.node.name for step in plan.steps if step.estimate and not step.estimate.seconds]
    if unknown:
        total = f"{total} without {', '.join(unknown)}, of which nothing is known before their text is prepared"
    yield Text(f"hardware {hardware.name}: {_devices(hardware)}; {total}; {_disk(estimates)}")
    yield _fit(plan, hardware)
    yield Text(f"≈ is estimated, memory is that of one device; left out: {LEFT_OUT}", style="dim")


def _devices(hardware: Hardware) -> str:
    nodes = f"{hardware.nodes} nodes × " if hardware.nodes > 1 else ""
    offload = f", offload to {hardware.offload}" if hardware.offload != "none" else ""
    beside = f", {hardware.side_by_side} nodes at a time" if hardware.side_by_side > 1 else ""
    return f"{nodes}{hardware.devices} × {hardware.device}, ZeRO-{hardware.zero_stage}{offload}{beside}"


def _disk(estimates: list[Estimate]) -> str:
    kept = sum(estimate.disk_bytes for estimate in estimates)
    most = max(estimate.work_bytes for estimate in estimates)
    return f"{size(kept)} of disk" + (f", and up to {size(most)} while a node runs" if most else "")


def _fit(plan: Plan, hardware: Hardware) -> Text:
    tight = [step for step in plan.steps if step.estimate and not step.estimate.fits]
    if not tight:
        return Text(f"every node fits into {hardware.memory_gb:g} GB per device", style="green")
    needs = ", ".join(f"{step.node.name} ({size(step.estimate.memory_bytes)})" for step in tight if step.estimate)
    small = [(step, step.estimate.nf4_bytes) for step in tight if step.estimate and step.estimate.nf4_bytes]
    ways = [f"{step.node.name} fits with {step.node.setting}.base_weights=nf4 ({size(needed)})" for step, needed in small]
    ways += ["model.base_weights=nf4 sets it for every adapter"] if len(ways) > 1 else []
    others = "hardware.zero_stage=3, hardware.offload=cpu, hardware.gradient_checkpointing=true, a smaller hardware.row_tokens"
    return Text(
        f"does not fit into {hardware.memory_gb:g} GB per device: {needs}; {''.join(f'{way}; ' for way in ways)}"
        f"try {others}, or more devices",
        style="bold red",
    )
