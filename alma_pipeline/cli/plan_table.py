"""The plan as a terminal table: what runs, why, how long and how big. Prints a plan; decides nothing."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Group
from rich.text import Text

from alma_pipeline.cli import plan_needs
from alma_pipeline.plan.estimates.estimate import NOT_INCLUDED
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.node import base_name, is_training
from alma_pipeline.plan.plan import Cause, Plan, Step
from alma_pipeline.schema import Hardware, Training
from alma_pipeline.schema.time_limit import limit_seconds, notice_seconds
from alma_pipeline.units import count, rough_duration, size

COLOURS = {"reuse": "green", "adopt": "cyan", "resume": "yellow", "run": "bold yellow", "skip": "dim"}
NUMBERS = ("steps", "tokens", "memory", "disk", "time")
DISPENSABLE = ("disk", "tokens", "memory", "steps")
"""Columns that a narrow terminal drops, first to last."""
WHY_WIDTH = 30
"""Columns kept for the reasons, if they need as many. A longer reason gets lines of its own below its row."""
GAP = "  "
INDENT = 4


@dataclass(frozen=True)
class Row:
    """One line: a node, or a checkpoint's translations together with their scores."""

    name: str
    verdict: str
    numbers: dict[str, str]
    why: str


def plan_table(plan: Plan, hardware: Hardware, width: int) -> Group:
    """A row for each node with a reason, the names of the others, and the totals, for a terminal `width` columns wide."""
    parts: list[Text] = []
    rows = list(_rows(plan))
    if rows:
        parts += _lines(rows, width)
    for verdict in ("reuse", "skip"):
        names = [step.node.name for step in plan.steps if step.verdict == verdict and _is_silent(step)]
        if names:
            label = (f"{verdict} ({len(names)}): ", COLOURS[verdict])
            parts.append(Text.assemble("\n" if rows else "", label, (", ".join(_without_repetition(names)), "dim")))
    parts += [Text(f"{'' if number else chr(10)}{note}", style="yellow") for number, note in enumerate(plan.notes)]
    return Group(*parts, *_summary(plan, hardware))


def _is_silent(step: Step) -> bool:
    """Whether the verdict says it all."""
    return step.cause in (Cause.COMPLETE, Cause.NOT_NEEDED)


def _without_repetition(names: list[str]) -> list[str]:
    """Names in their order, where `g1.arpo`, `g2.arpo`, `g3.arpo` become `g1–g3.arpo`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(base_name(name), []).append(name)
    result: list[str] = []
    for base, alike in groups.items():
        numbers = [int(name[1 : -len(base) - 1]) for name in alike if name.removesuffix(f".{base}")[1:].isdigit()]
        in_sequence = len(numbers) == len(alike) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        result += [f"g{numbers[0]}–g{numbers[-1]}.{base}"] if in_sequence and len(alike) > 2 else alike
    return result


def _rows(plan: Plan) -> Iterator[Row]:
    steps = [step for step in plan.steps if not _is_silent(step)]
    merged: set[str] = set()
    for step, following in pairwise([*steps, None]):
        assert step is not None
        if step.node.name in merged:
            continue
        name = step.node.name
        if following and _are_one_row(step, following):
            merged.add(following.node.name)
            name = f"{name}+score"
        yield Row(name, step.verdict, _numbers(step), step.reason)


def _are_one_row(translate: Step, score: Step) -> bool:
    """Whether a checkpoint's translations and their scores have one verdict and one reason, or the first are the second's."""
    if score.node.inputs != {"hypotheses": translate.node.name} or translate.verdict != score.verdict or score.estimate:
        return False
    return score.reason == translate.reason or score.cause is Cause.INPUTS_CHANGED


def _lines(rows: list[Row], width: int) -> Iterator[Text]:
    """The header and the rows. A reason that does not fit behind its row is indented below it, so that no word is broken."""
    shown = _columns(rows, width)
    widths = _widths(rows)
    head = [f"{name:{widths[name]}}" if name in ("node", "verdict") else f"{name:>{widths[name]}}" for name in shown]
    yield Text(GAP.join([*head, "why"]), style="bold")
    room = width - sum(widths[name] + len(GAP) for name in shown)
    for row in rows:
        line = Text(f"{row.name:{widths['node']}}{GAP}")
        line.append(f"{row.verdict:{widths['verdict']}}", style=COLOURS[row.verdict])
        for name in shown[2:]:
            line.append(f"{GAP}{row.numbers[name]:>{widths[name]}}")
        fits = len(row.why) <= room
        if fits:
            line.append(f"{GAP}{row.why}")
        line.rstrip()
        yield line
        if not fits:
            yield from _indented(row.why, width)


def _indented(text: str, width: int) -> Iterator[Text]:
    """The text below its row, wrapped at words; a word longer than the terminal is left to the terminal."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and len(longer) > width - INDENT:
            yield Text(" " * INDENT + line, overflow="fold")
            line = word
        else:
            line = longer
    yield Text(" " * INDENT + line, overflow="fold")


def _columns(rows: list[Row], width: int) -> list[str]:
    """The columns before the reasons: all that have a value, less those for which there is no room."""
    widths = _widths(rows)
    shown = ["node", "verdict", *(name for name in NUMBERS if any(row.numbers[name] for row in rows))]
    for_reasons = min(WHY_WIDTH, max(len(row.why) for row in rows))
    for name in DISPENSABLE:
        if sum(widths[other] + len(GAP) for other in shown) + for_reasons > width and name in shown:
            shown.remove(name)
    return shown


def _widths(rows: list[Row]) -> dict[str, int]:
    """Column to its widest text, the header included."""
    texts = [{"node": row.name, "verdict": row.verdict} | row.numbers for row in rows]
    return {name: max(len(name), *(len(text[name]) for text in texts)) for name in ("node", "verdict", *NUMBERS)}


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
        "time": f"≈{rough_duration(estimate.seconds)}" if estimate.seconds else "",
    }


def _summary(plan: Plan, hardware: Hardware) -> Iterable[Text]:
    verdicts = [step.verdict for step in plan.steps]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in COLOURS if name in verdicts)
    yield Text(f"\n{len(plan.steps)} nodes: {counts}")
    estimates = [step.estimate for step in plan.steps if step.estimate]
    if not estimates:
        return
    time = f"about {rough_duration(total_seconds(plan, hardware))}"
    unknown = [step.node.name for step in plan.steps if step.estimate and not step.estimate.seconds]
    if unknown:
        time = f"{time}, excluding {', '.join(unknown)} (unknown until the text is prepared)"
    yield Text("; ".join([f"hardware {hardware.name}: {_devices(hardware)}", time, *_disk(estimates)]))
    yield from map(Text, _allocations(plan, hardware))
    yield _fit(plan, hardware)
    yield from plan_needs.lines(plan, hardware)
    yield Text(f"≈ is an estimate; memory is per device; not included: {NOT_INCLUDED}", style="dim")


def total_seconds(plan: Plan, hardware: Hardware) -> float:
    """Seconds of the whole plan: the sum over its nodes shared by those that run in parallel, at least its longest chain."""
    chains: dict[str, float] = {}
    for step in plan.steps:
        own = step.estimate.seconds if step.estimate else 0.0
        chains[step.node.name] = own + max((chains[name] for name in step.inputs.values()), default=0.0)
    total = sum(step.estimate.seconds for step in plan.steps if step.estimate)
    return max(total / hardware.max_parallel_nodes, *chains.values())


def _devices(hardware: Hardware) -> str:
    machines = f"{hardware.nodes} machines × " if hardware.nodes > 1 else ""
    offload = f", offload to {hardware.offload}" if hardware.offload != "none" else ""
    parallel = f", {hardware.max_parallel_nodes} nodes at a time" if hardware.max_parallel_nodes > 1 else ""
    return f"{machines}{hardware.devices} × {hardware.device}, ZeRO-{hardware.zero_stage}{offload}{parallel}"


def _disk(estimates: list[Estimate]) -> Iterator[str]:
    kept = sum(estimate.disk_bytes for estimate in estimates)
    temporary = max(estimate.work_bytes for estimate in estimates)
    if kept or temporary:
        yield f"{size(kept)} on disk" + (f", plus up to {size(temporary)} while a node runs" if temporary else "")


def _allocations(plan: Plan, hardware: Hardware) -> Iterator[str]:
    """A line with the nodes that take several allocations: training ends each with a resume point, decoding keeps its outputs."""
    if hardware.launcher != "slurm":
        return
    useful = limit_seconds(hardware.time_limit) - notice_seconds(hardware.time_limit)
    counts = {
        step.node.name: math.ceil(step.estimate.seconds / useful)
        for step in plan.work
        if step.estimate and step.node.config.distributed
    }
    if several := [f"{name} about {number}" for name, number in counts.items() if number > 1]:
        yield f"allocations of {hardware.time_limit} each: {', '.join(several)}; each continues where the one before it ended"


def _fit(plan: Plan, hardware: Hardware) -> Text:
    """Whether every node fits on a device; if not, the settings that help."""
    limit = f"{hardware.memory_gb:g} GB per device"
    too_big = [(step, step.estimate) for step in plan.steps if step.estimate and not step.estimate.fits]
    if not too_big:
        return Text(f"every node fits into {limit}", style="green")
    needs = ", ".join(f"{step.node.name} ({size(estimate.memory_bytes)})" for step, estimate in too_big)
    # A 4-bit base is offered where the estimate says that it suffices; the others always help, but nobody computed how much.
    ways = [
        f"{step.node.name} fits with {step.node.setting}.quantization=nf4 ({size(estimate.nf4_bytes)})"
        for step, estimate in too_big
        if estimate.nf4_bytes
    ]
    ways += ["model.quantization=nf4 sets it for the whole recipe"] if len(ways) > 1 else []
    # Nothing but another's training replaces full weights that fit nowhere.
    ways += [
        f"{step.node.name} trains all weights, which cannot be in 4 bits: use a published checkpoint (alma-pipeline adopt "
        f"{step.node.name} OWNER/NAME@REV)"
        for step, _ in too_big
        if isinstance(step.node.config, Training) and step.node.config.adapter == "none"
    ]
    # Training and decoding have their memory settings apart.
    if any(is_training(step.node) for step, _ in too_big):
        recompute = "" if hardware.gradient_checkpointing is not False else "hardware.gradient_checkpointing=true, "
        ways.append(
            f"try hardware.zero_stage=3, hardware.offload=cpu, {recompute}a smaller hardware.micro_batch_tokens or more devices"
        )
    if not all(is_training(step.node) for step, _ in too_big):
        # With null the cache takes only what the weights leave.
        smaller = "devices with more memory" if hardware.decode_tokens is None else "a smaller hardware.decode_tokens"
        ways.append(f"for decoding, try {smaller}")
    return Text(f"does not fit into {limit}: {needs}; {'; '.join(ways)}", style="bold red")
