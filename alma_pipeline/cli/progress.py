"""Shows a running plan: a live table with a bar for each running node, or plain lines if the output is not a terminal."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from alma_pipeline.console import PIPE_WIDTH, LiteralConsole
from alma_pipeline.plan.plan import Plan, Step
from alma_pipeline.store.record import Record
from alma_pipeline.units import count, duration, size

RATE = "download/bytes_per_second"
"""The metric of a node that downloads; its steps are bytes."""
PLAIN_EVERY = 10.0
"""Seconds between two plain lines of the same node."""
WIDE = 110
BAR = 24
"""Columns of the progress bar, shown on terminals of at least `WIDE` columns; narrower ones show numbers only."""
MAX_ROWS, MAX_ENDED = 12, 4
"""Rows of the live table, and how many of them show finished nodes."""
WAITING = "waiting"
SEPARATOR = " · "
MARK, GAP = 2, 2
"""Width of the mark before a node's name, and of the gap between columns."""


def summary(line: dict[str, Any]) -> str:
    """`loss 2.31 · 5.9k tokens/s` from a line of metrics."""
    metrics = line["metrics"]
    parts = []
    for name, label in (("train/loss", "loss"), ("dev/loss", "dev loss")):
        if name in metrics:
            parts.append(f"{label} {metrics[name]:.3f}")
    if metrics.get("train/tokens_per_second"):
        parts.append(f"{count(metrics['train/tokens_per_second'])} tokens/s")
    if metrics.get(RATE):
        parts.append(f"{size(metrics[RATE])}/s")
    return SEPARATOR.join(parts)


def _position(line: dict[str, Any]) -> str:
    """`120/900`; for a download `1.2 GB of 26 GB`; without a known total `12,000 rows`."""
    if RATE in line["metrics"]:
        return f"{size(line['step'])} of {size(line['total'])}"
    return f"{line['step']:,}/{line['total']:,}" if line["total"] else f"{line['step']:,} rows"


class Pace:
    """A node's speed, measured between the lines of this attempt, so startup and resumed steps do not count."""

    def __init__(self) -> None:
        self.first: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Add new progress lines."""
        for line in lines:
            if self.last and line["step"] < self.last["step"]:
                self.first = self.last = None  # the node has started to count something else
            self.first = self.first or line
            # A dev line follows its training line; show the numbers of both.
            self.last = line | {"metrics": (self.last or line)["metrics"] | line["metrics"]}

    def left(self) -> str:
        """`3 min 05 s left`; empty before the pace is known, and at the end."""
        if not self.first or not self.last:
            return ""
        done = self.last["step"] - self.first["step"]
        took = self.last["time"] - self.first["time"]
        ahead = self.last["total"] - self.last["step"]
        return f"{duration(took / done * ahead)} left" if done > 0 and ahead > 0 else ""


@dataclass
class Progress:
    """The progress of one running node."""

    pace: Pace = field(default_factory=Pace)
    began: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)
    """When its last plain line was printed."""

    def text(self, room: int = PIPE_WIDTH) -> str:
        """`120/900 · loss 2.31 · 5.9k tokens/s · 40 s left`; before the first line, how long it has been starting.

        Drops the speed, then the losses, if the text exceeds `room` columns.
        """
        line = self.pace.last
        if not line:
            return f"starting · {duration(time.monotonic() - self.began)}"
        position = _position(line)
        numbers = summary(line).split(SEPARATOR)
        for middle in (numbers, [part for part in numbers if "tokens/s" not in part], []):
            parts = [position, *middle, self.pace.left()]
            text = SEPARATOR.join(part for part in parts if part)
            if len(text) <= room:
                break
        return text


class PlainView:
    """Prints one line per event, and one every few seconds for each running node."""

    def __init__(self, console: LiteralConsole) -> None:
        self.console = console
        self._running: dict[str, Progress] = {}

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def started(self, step: Step, work: Path) -> None:
        self._running[step.node.name] = Progress()
        self.console.print_line(f"{step.node.name}: {step.verdict} ({step.reason})")

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        progress, now = self._running[step.node.name], time.monotonic()
        progress.pace.add(lines)
        if now - progress.printed >= PLAIN_EVERY:
            progress.printed = now
            self.console.print_line(f"{step.node.name}: {progress.text()}")

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        took = duration(time.monotonic() - self._running.pop(step.node.name).began)
        self.console.print_line(f"{step.node.name}: {'done' if record else status.lower()} in {took}")

    def waiting(self, text: str) -> None:
        self.console.print_line(text)

    def restarts(self, step: Step, text: str) -> None:
        self.console.print_line(text)


class LiveView:
    """Shows finished nodes, running nodes with a progress bar, and the next ones; redrawn in place."""

    def __init__(self, console: LiteralConsole, plan: Plan) -> None:
        self.steps = [step.node.name for step in plan.work]
        self.took: dict[str, float] = {}
        self.running: dict[str, Progress] = {}
        self.notes: dict[str, str] = {}
        self._began = time.monotonic()
        self._width = console.width
        self._wide = console.width >= WIDE
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def started(self, step: Step, work: Path) -> None:
        self.running[step.node.name] = Progress()
        self.notes.pop(WAITING, None)

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        self.running[step.node.name].pace.add(lines)

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        name = step.node.name
        self.took[name] = time.monotonic() - self.running.pop(name).began
        if record is None:
            self.notes[name] = f"{name} {status.lower()}"

    def waiting(self, text: str) -> None:
        self.notes[WAITING] = text

    def restarts(self, step: Step, text: str) -> None:
        self.running.pop(step.node.name)
        self.notes[f"{step.node.name} restarts"] = text

    def _render(self) -> Group:
        # Columns: mark, name, bar on wide terminals, text.
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=MARK)
        table.add_column(no_wrap=True)
        if self._wide:
            table.add_column(width=BAR)
        table.add_column(no_wrap=True)

        # Rows: the last finished nodes, the running ones, and as many waiting ones as fit.
        ended = [*self.took][-MAX_ENDED:]
        ahead = [name for name in self.steps if name not in self.took and name not in self.running]
        shown = max(0, MAX_ROWS - len(ended) - len(self.running))
        names = [*ended, *self.running, *ahead[:shown]]
        widths = [MARK, max(map(len, names), default=0), *([BAR] if self._wide else [])]
        room = self._width - sum(width + GAP for width in widths)
        for name in names:
            mark, label, bar, text = self._row(name, room)
            table.add_row(mark, label, *([bar] if self._wide else []), text)

        # Around the table: totals above, what was left out and notes below.
        more = [Text(f"   and {len(ahead) - shown} more", style="dim")] if len(ahead) > shown else []
        took = duration(time.monotonic() - self._began)
        head = Text(f"{len(self.took)} of {len(self.steps)} nodes done · {took}", style="bold")
        return Group(head, table, *more, *(Text(note, style="yellow") for note in self.notes.values()))

    def _row(self, name: str, room: int) -> tuple[Any, ...]:
        if name in self.took:
            mark = Text("✗", style="red") if name in self.notes else Text("✓", style="green")
            return mark, name, "", Text(duration(self.took[name]), style="dim")
        if name not in self.running:
            return "", Text(name, style="dim"), "", ""
        progress = self.running[name]
        line = progress.pace.last or {"step": 0, "total": 1}
        total = line["total"]
        # Without a total the bar pulses.
        bar = ProgressBar(total=total, completed=min(line["step"], total)) if total else ProgressBar(total=None)
        return self._spinner, Text(name, style="bold"), bar, progress.text(room)


def view(console: LiteralConsole, plan: Plan) -> LiveView | PlainView:
    """The view for this console: live on a terminal, otherwise plain, even if colour is forced on a pipe."""
    return LiveView(console, plan) if console.file.isatty() and not console.is_dumb_terminal else PlainView(console)
