"""The running plan on screen: a live table with a bar for the running node, or plain lines when not a terminal."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from alma_pipeline.plan import Plan, Step
from alma_pipeline.store import Record
from alma_pipeline.tables import count, seconds

PLAIN_EVERY = 10.0
"""Seconds between two plain lines of one node."""
SHOWN = 14
"""Rows of the live table: finished nodes scroll away above."""


def summary(line: dict[str, Any]) -> str:
    """`loss 2.31 · 5.9k tokens/s` from a line of metrics."""
    metrics = line["metrics"]
    parts = []
    for name, label in (("train/loss", "loss"), ("dev/loss", "dev loss")):
        if name in metrics:
            parts.append(f"{label} {metrics[name]:.3f}")
    if metrics.get("train/tokens_per_second"):
        parts.append(f"{count(metrics['train/tokens_per_second'])} tokens/s")
    return " · ".join(parts)


def remaining(step: int, total: int, elapsed: float) -> str:
    return f"{seconds(elapsed / step * (total - step))} left" if 0 < step < total else ""


class PlainView:
    """One line per event, and one every few seconds for the running node."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = self._last = 0.0

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def started(self, step: Step, work: Path) -> None:
        self._began = self._last = time.monotonic()
        self.console.print(f"{step.node.name}: {step.verdict} ({step.reason})", highlight=False)

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_EVERY:
            return
        self._last = now
        line = lines[-1]
        left = remaining(line["step"], line["total"], now - self._began)
        text = f"{step.node.name}: {line['step']:,}/{line['total']:,} {summary(line)} {left}"
        self.console.print(text.rstrip(), highlight=False)

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        took = seconds(time.monotonic() - self._began)
        self.console.print(f"{step.node.name}: {'done' if record else status.lower()} in {took}", highlight=False)

    def waiting(self, text: str) -> None:
        self.console.print(text, highlight=False)


class LiveView:
    """The plan's remaining nodes with a progress bar; rewritten in place."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.plan = plan
        self.steps = [step.node.name for step in plan.work]
        self.took: dict[str, float] = {}
        self.line: dict[str, Any] = {}
        self.running = ""
        self.note = ""
        self._began = time.monotonic()
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def started(self, step: Step, work: Path) -> None:
        self.running, self.line, self.note = step.node.name, {}, ""
        self._began = time.monotonic()

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        for line in lines:  # keep the last training numbers when a dev line follows them
            self.line = line | {"metrics": self.line.get("metrics", {}) | line["metrics"]}

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        self.took[step.node.name] = time.monotonic() - self._began
        self.running = ""
        if record is None:
            self.note = f"{step.node.name} {status.lower()}"

    def waiting(self, text: str) -> None:
        self.note = text

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=2)
        table.add_column(no_wrap=True, min_width=26)
        table.add_column(width=24)
        table.add_column(no_wrap=True)
        at = self.steps.index(self.running) if self.running in self.steps else len(self.took)
        first = max(0, min(at - SHOWN // 2, len(self.steps) - SHOWN))
        for name in self.steps[first : first + SHOWN]:
            table.add_row(*self._row(name))
        hidden = len(self.steps) - first - SHOWN
        more = [Text(f"   and {hidden} more", style="dim")] if hidden > 0 else []
        head = Text(f"{len(self.took)} of {len(self.steps)} nodes done", style="bold")
        return Group(head, table, *more, *([Text(self.note, style="yellow")] if self.note else []))

    def _row(self, name: str) -> tuple[Any, ...]:
        if name in self.took:
            return Text("✓", style="green"), name, "", Text(seconds(self.took[name]), style="dim")
        if name != self.running:
            return "", Text(name, style="dim"), "", ""
        elapsed = time.monotonic() - self._began
        if not self.line:
            return self._spinner, Text(name, style="bold"), "", Text(f"starting · {seconds(elapsed)}", style="dim")
        step, total = self.line["step"], max(1, self.line["total"])
        bar = ProgressBar(total=total, completed=min(step, total), width=24)
        parts = [f"{step:,}/{total:,}", summary(self.line), remaining(step, total, elapsed)]
        return self._spinner, Text(name, style="bold"), bar, " · ".join(part for part in parts if part)


def view(console: Console, plan: Plan) -> LiveView | PlainView:
    """What fits the place the output goes to."""
    return LiveView(console, plan) if console.is_terminal else PlainView(console)
