"""What a person reads: the plan and the results as terminal tables. Holds no logic of either."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from alma_pipeline.estimate import LEFT_OUT, SOURCES, Estimate
from alma_pipeline.plan import Plan, Step
from alma_pipeline.schema import Hardware
from alma_pipeline.store import Record

COLOURS = {"reuse": "green", "adopt": "cyan", "resume": "yellow", "run": "bold yellow", "unneeded": "dim"}


MEASURES = (
    {"bits_per_byte": "bits/byte"},
    {"rewards/accuracies": "accuracy", "logps/margins": "margin"},
    {"loss": "loss"},
)
"""What says most of a stage, by the name it has in a result; the first that is known is shown."""


def seconds(value: float) -> str:
    """`42 s`, `3 min 05 s`, `7 h 12 min`, `3.4 days`."""
    if value < 60:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    if value < 48 * 3600:
        return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"
    return f"{value / 86400:.1f} days"


def size(value: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count(value: float) -> str:
    """`640`, `12.4k`, `1.3M`, `20.0B`."""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}B"


def plan_table(plan: Plan, hardware: Hardware) -> Group:
    """Every node with its verdict and reason; numbers for those that run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "verdict", "steps", "tokens", "memory/device", "disk", "time"):
        table.add_column(name, justify="left" if name in ("node", "verdict") else "right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for step in plan.steps:
        verdict = Text(step.verdict, style=COLOURS[step.verdict])
        table.add_row(step.node.name, verdict, *_numbers(step.estimate, hardware), step.reason)
    return Group(table, *_summary(plan, hardware))


def _numbers(estimate: Estimate | None, hardware: Hardware) -> tuple[str, str, str, str, str]:
    if estimate is None:
        return "", "", "", "", ""
    about = "" if estimate.exact else "≈"
    return (
        f"{estimate.steps:,}" if estimate.steps else "",
        about + count(estimate.tokens) if estimate.tokens else "",
        f"{size(estimate.memory_bytes)}{'' if estimate.fits else ' !'}" if estimate.memory_bytes else "",
        size(estimate.disk_bytes) if estimate.disk_bytes else "",
        about + seconds(estimate.seconds),
    )


def _summary(plan: Plan, hardware: Hardware) -> Iterable[Text]:
    verdicts = [step.verdict for step in plan.steps]
    parts = [f"{verdicts.count(name)} {name}" for name in COLOURS if name in verdicts]
    estimates = [step.estimate for step in plan.steps if step.estimate]
    yield Text(f"\n{len(plan.steps)} nodes: {', '.join(parts)}")
    if not estimates:
        return
    devices = (
        f"{hardware.world} × {hardware.device}"
        if hardware.nodes == 1
        else (f"{hardware.nodes} nodes × {hardware.devices} × {hardware.device}")
    )
    total = sum(estimate.seconds for estimate in estimates)
    yield Text(
        f"hardware {hardware.name}: {devices}, ZeRO-{hardware.zero_stage}, offload {hardware.offload}; about "
        f"{seconds(total)}, {size(sum(estimate.disk_bytes for estimate in estimates))} of disk"
    )
    yield _fit(plan, hardware)
    yield Text(f"estimates after {SOURCES}; left out: {LEFT_OUT}", style="dim")


def _fit(plan: Plan, hardware: Hardware) -> Text:
    tight = [step for step in plan.steps if step.estimate and not step.estimate.fits]
    if not tight:
        return Text(f"every node fits into {hardware.memory_gb:g} GB per device", style="green")
    needs = ", ".join(f"{step.node.name} ({size(step.estimate.memory_bytes)})" for step in tight if step.estimate)
    return Text(
        f"does not fit into {hardware.memory_gb:g} GB per device: {needs}; try hardware.zero_stage=3, hardware.offload=cpu, "
        "hardware.gradient_checkpointing=true, a smaller hardware.row_tokens, or more devices",
        style="bold red",
    )


def score_table(records: dict[str, Record]) -> Table | None:
    """chrF++, BLEU and exact match by checkpoint and direction."""
    scores = {name.removesuffix(".score"): record.result for name, record in records.items() if record.kind == "score"}
    if not scores:
        return None
    directions = list(dict.fromkeys(direction for result in scores.values() for direction in result["directions"]))
    table = Table(box=None, pad_edge=False, header_style="bold", title="chrF++ / BLEU / exact match %", title_justify="left")
    table.add_column("checkpoint", no_wrap=True)
    for name in [*directions, "en→xx", "xx→en", "all"]:
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in scores.items():
        cells = [_cell(result["directions"].get(direction)) for direction in directions]
        averages = [_cell(result["averages"].get(part)) for part in ("en-xx", "xx-en", "all")]
        table.add_row(name, *cells, *averages)
    return table


def _cell(scores: dict[str, Any] | None) -> str:
    if not scores:
        return ""
    values = (scores.get("chrf++"), scores.get("bleu"), scores.get("exact"))
    return "/".join("–" if value is None else f"{value:.0f}" for value in values)


def training_table(plan: Plan, records: dict[str, Record]) -> Table | None:
    """What each training node did to its dev measures, and estimate beside actual."""
    trained = [step for step in plan.steps if step.node.name in records and "before" in records[step.node.name].result]
    if not trained:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold", title="training", title_justify="left")
    for name, side in (("node", "left"), ("dev measure before → after", "left"), ("steps", "right"), ("tokens/s", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for name in ("time (estimate)", "memory (estimate)"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in trained:
        result = records[step.node.name].result
        table.add_row(
            step.node.name,
            _measures(result["before"], result["after"]),
            f"{result['steps']:,}",
            count(result["tokens_per_second"]),
            _beside(seconds(result["seconds"]), step.estimate and seconds(step.estimate.seconds)),
            _beside(size(result["peak_memory_bytes"]), step.estimate and size(step.estimate.memory_bytes)),
        )
    return table


def _beside(actual: str, estimated: str | None) -> str:
    return f"{actual} ({estimated})" if estimated else actual


def _measures(before: dict[str, float], after: dict[str, float]) -> str:
    """Of the dev set, before and after."""
    for names in MEASURES:
        if all(name in before and name in after for name in names):
            return ", ".join(f"{label} {before[name]:.3g} → {after[name]:.3g}" for name, label in names.items())
    return ""


def reused(plan: Plan) -> Text:
    return Text(f"nothing to do: all {len(plan.steps)} nodes are there")


def print_failure(console: Console, text: str, tail: str, log: str) -> None:
    """A failed node: what, the end of its log, and where the rest is."""
    console.print(Text(text, style="bold red"))
    if tail:
        console.print(Text(tail, style="dim"))
    console.print(Text(f"log: {log}"))


def targets(plan: Plan, records: dict[str, Record]) -> list[tuple[Step, Record]]:
    """The checkpoints that were asked for, with their folders."""
    return [(step, records[step.node.name]) for step in plan.steps if step.node.target and step.node.name in records]
