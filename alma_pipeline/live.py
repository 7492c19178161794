"""The running plan on screen: a live table with a bar for the running node, or plain lines when not a terminal."""

import time
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from alma_pipeline.plan import Plan, Step
from alma_pipeline.screen import Screen
from alma_pipeline.store import Record
from alma_pipeline.units import count, seconds

PLAIN_EVERY = 10.0
"""Seconds between two plain lines of one node."""
WIDE = 110
BAR = 24
"""Columns of the progress bar, on a terminal of at least `WIDE`."""
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


class Pace:
    """How fast a node goes: from the lines it wrote in this attempt, so that neither its start nor a resume counts."""

    def __init__(self) -> None:
        self.first: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None

    def add(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            self.first = self.first or line
            # A dev line follows the training line it belongs to: the numbers of both are wanted.
            self.last = line | {"metrics": (self.last or line)["metrics"] | line["metrics"]}

    def left(self) -> str:
        """`3 min 05 s left`; empty before there is a pace, and at the end."""
        if not self.first or not self.last:
            return ""
        done = self.last["step"] - self.first["step"]
        took = self.last["time"] - self.first["time"]
        ahead = self.last["total"] - self.last["step"]
        return f"{seconds(took / done * ahead)} left" if done > 0 and ahead > 0 else ""


class PlainView:
    """One line per event, and one every few seconds for the running node."""

    def __init__(self, console: Screen) -> None:
        self.console = console
        self._began = self._last = 0.0
        self._pace = Pace()

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def started(self, step: Step, work: Path) -> None:
        self._began = self._last = time.monotonic()
        self._pace = Pace()
        self.console.say(f"{step.node.name}: {step.verdict} ({step.reason})")

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        self._pace.add(lines)
        now, line = time.monotonic(), self._pace.last
        if line and now - self._last >= PLAIN_EVERY:
            self._last = now
            parts = [f"{line['step']:,}/{line['total']:,}", summary(line), self._pace.left()]
            self.console.say(f"{step.node.name}: {' · '.join(part for part in parts if part)}")

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        took = seconds(time.monotonic() - self._began)
        self.console.say(f"{step.node.name}: {'done' if record else status.lower()} in {took}")

    def waiting(self, text: str) -> None:
        self.console.say(text)


class LiveView:
    """The plan's remaining nodes with a progress bar; rewritten in place."""

    def __init__(self, console: Screen, plan: Plan) -> None:
        self.plan = plan
        self.steps = [step.node.name for step in plan.work]
        self.took: dict[str, float] = {}
        self.failed = ""
        self.pace = Pace()
        self.running = ""
        self.note = ""
        self._began = self._started = time.monotonic()
        self._wide = console.width >= WIDE
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def started(self, step: Step, work: Path) -> None:
        self.running, self.pace, self.note = step.node.name, Pace(), ""
        self._began = time.monotonic()

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        self.pace.add(lines)

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        self.took[step.node.name] = time.monotonic() - self._began
        self.running = ""
        if record is None:
            self.failed, self.note = step.node.name, f"{step.node.name} {status.lower()}"

    def waiting(self, text: str) -> None:
        self.note = text

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=2)
        table.add_column(no_wrap=True)
        table.add_column(width=BAR if self._wide else BAR // 3)
        table.add_column(no_wrap=True)
        at = self.steps.index(self.running) if self.running in self.steps else len(self.took)
        first = max(0, min(at - SHOWN // 2, len(self.steps) - SHOWN))
        for name in self.steps[first : first + SHOWN]:
            table.add_row(*self._row(name))
        hidden = len(self.steps) - first - SHOWN
        more = [Text(f"   and {hidden} more", style="dim")] if hidden > 0 else []
        head = Text(
            f"{len(self.took)} of {len(self.steps)} nodes done · {seconds(time.monotonic() - self._started)}", style="bold"
        )
        return Group(head, table, *more, *([Text(self.note, style="yellow")] if self.note else []))

    def _row(self, name: str) -> tuple[Any, ...]:
        if name in self.took:
            mark = Text("✗", style="red") if name == self.failed else Text("✓", style="green")
            return mark, name, "", Text(seconds(self.took[name]), style="dim")
        if name != self.running:
            return "", Text(name, style="dim"), "", ""
        elapsed = time.monotonic() - self._began
        line = self.pace.last
        if not line:
            return self._spinner, Text(name, style="bold"), "", Text(f"starting · {seconds(elapsed)}", style="dim")
        step, total = line["step"], max(1, line["total"])
        bar = ProgressBar(total=total, completed=min(step, total))
        parts = [f"{step:,}/{total:,}", summary(line), self.pace.left()]
        return self._spinner, Text(name, style="bold"), bar, " · ".join(part for part in parts if part)


def view(console: Screen, plan: Plan) -> LiveView | PlainView:
    """What fits the place the output goes to; colour that is forced on a pipe makes it no terminal."""
    return LiveView(console, plan) if console.file.isatty() and not console.is_dumb_terminal else PlainView(console)
