"""The tables printed after a run: scores by checkpoint, and what each training node achieved. Computes no scores."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from alma_pipeline.plan.plan import Plan, Step
from alma_pipeline.schema.metrics import MAIN, metric_label
from alma_pipeline.store.record import Record
from alma_pipeline.units import count, duration, rough_duration, size

MEASURES = (
    {"bits_per_byte": "bits/byte"},
    {"rewards/accuracies": "accuracy", "logps/margins": "margin"},
    {"loss": "loss"},
)
"""The most telling measures of a stage (name in the result: label), in order of preference; the first that exists is shown."""
GAP = 2
NOT_AVAILABLE = "–"


def score_tables(records: dict[str, Record], width: int) -> Iterator[Table]:
    """Averages and the main metric per direction for each checkpoint; several tables if one would be wider than `width`."""
    scores = {name.removesuffix(".score"): record.result for name, record in records.items() if record.kind == "score"}
    if not scores:
        return
    names = max(len("checkpoint"), *(len(name) for name in scores))
    title = f"{metric_label(MAIN)} (mean over directions, then each)"
    for columns in _packed(_score_columns(scores), width - names):
        rows = [[name, *(cells[name] for cells in columns.values())] for name in scores]
        yield _table(title, ["checkpoint", *columns], [row for row in rows if any(row[1:])])
        title = ""


def _score_columns(scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Column header to checkpoint to cell."""
    # Averages first, then a column per direction that any checkpoint has.
    averages = {name: result["averages"] for name, result in scores.items()}
    columns = {
        label: {name: _number(parts.get(part), measure) for name, parts in averages.items()}
        for label, part, measure in (
            ("all", "all", MAIN),
            ("en→xx", "en-xx", MAIN),
            ("xx→en", "xx-en", MAIN),
            (f"{metric_label('bleu')} xx→en", "xx-en", "bleu"),  # one signature for all directions, unlike en→xx (B49)
            ("exact %", "all", "exact"),
        )
        if any(measure in scores for parts in averages.values() for scores in parts.values())
    }
    directions = dict.fromkeys(direction for result in scores.values() for direction in result["directions"])
    for direction in directions:
        cells = {name: _number(result["directions"].get(direction), MAIN) for name, result in scores.items()}
        columns[direction.replace("-", "→")] = cells
    return columns


def _number(scores: dict[str, Any] | None, measure: str) -> str:
    """One decimal; empty if a checkpoint lacks the direction, a dash if its scores lack the measure."""
    if not scores:
        return ""
    value = scores.get(measure)
    return NOT_AVAILABLE if value is None else f"{value:.1f}"


def _packed(columns: dict[str, dict[str, str]], width: int) -> Iterator[dict[str, dict[str, str]]]:
    """The columns in order, split into groups that fit into `width`, with at least one column each."""
    group: dict[str, dict[str, str]] = {}
    left = width
    for label, cells in columns.items():
        needed = GAP + max(len(label), *(len(cell) for cell in cells.values()))
        if group and needed > left:
            yield group
            group, left = {}, width
        group[label] = cells
        left -= needed
    yield group


def training_table(plan: Plan, records: dict[str, Record], width: int) -> Table | None:
    """The dev measures of each training node before and after, and its cost; with the estimate for nodes that ran now."""
    trained = [step for step in plan.steps if step.node.name in records and "before" in records[step.node.name].result]
    if not trained:
        return None
    rows = [_trained(step, records[step.node.name].result) for step in trained]
    columns = ["node", "dev set, before → after", "steps", "tokens/s", "time", "memory"]
    # A narrow terminal drops columns from the right, down to the steps.
    while len(columns) > 3 and _total_width([columns, *rows]) > width:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return _table("training (estimates in parentheses)", columns, rows, left=2)


def _total_width(rows: list[list[str]]) -> int:
    """Characters of the widest cells of every column, and the gaps between them."""
    return sum(max(len(row[column]) for row in rows) + GAP for column in range(len(rows[0]))) - GAP


def _trained(step: Step, result: dict[str, Any]) -> list[str]:
    expected = step.estimate
    return [
        step.node.name,
        _measures(result["before"], result["after"]),
        f"{result['steps']:,}",
        count(result["tokens_per_second"]),
        _beside(duration(result["seconds"]), rough_duration(expected.seconds) if expected and expected.seconds else ""),
        _beside(size(result["peak_memory_bytes"]), size(expected.memory_bytes) if expected else ""),
    ]


def _beside(actual: str, expected: str) -> str:
    return f"{actual} ({expected})" if expected else actual


def _measures(before: dict[str, float], after: dict[str, float]) -> str:
    """`loss 2.5 → 0.5`: the most telling dev measures, before and after training."""
    for names in MEASURES:
        if all(name in before and name in after for name in names):
            return ", ".join(f"{label} {before[name]:.3g} → {after[name]:.3g}" for name, label in names.items())
    return ""


def _table(title: str, columns: list[str], rows: list[list[str]], left: int = 1) -> Table:
    """The first `left` columns are aligned left, the others right."""
    table = Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0), title=title or None, title_justify="left"
    )
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def reused(plan: Plan) -> Text:
    """The line printed when there is nothing to do; skipped nodes may be missing."""
    skipped = sum(step.verdict == "skip" for step in plan.steps)
    there = len(plan.steps) - skipped
    return Text(
        f"nothing to do: {there} nodes exist, {skipped} are skipped" if skipped else f"nothing to do: all {there} nodes exist"
    )


def targets(plan: Plan, records: dict[str, Record]) -> list[tuple[Step, Record]]:
    """The requested checkpoints with their artifacts."""
    return [(step, records[step.node.name]) for step in plan.steps if step.node.target and step.node.name in records]
