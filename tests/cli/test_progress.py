"""What a person sees while a plan runs: bars that are rewritten on a terminal, plain lines anywhere else."""

import codecs
import os
import pty
import re
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from alma_pipeline.cli import progress as live
from alma_pipeline.cli.progress import LiveView, Pace, PlainView, Progress, summary, view
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import StageFailed
from alma_pipeline.execution.runner import Runner
from helpers.fake_stages.recipes import chain, planned
from helpers.fake_stages.world import World
from helpers.processes import later, wait_for

STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A terminal of 120 columns, and all that was written to it."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.file = os.fdopen(slave, "w")
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._open = True
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while self._open or select.select([self.master], [], [], 0)[0]:
            if select.select([self.master], [], [], 0.02)[0]:
                self.text += STYLES.sub("", self._decoder.decode(os.read(self.master, 65536)))

    def show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the test itself: pytest puts a standard output of its own in place after the fixtures."""
        monkeypatch.setattr("sys.stdout", self.file)

    def close(self) -> None:
        self.file.flush()
        self._open = False
        self._reader.join()
        self.file.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    yield terminal
    if not terminal.file.closed:
        terminal.close()


def run(world: World, steps: int = 2) -> None:
    config = chain(steps)
    plan = planned(config, world.store)
    with view(LiteralConsole(), plan) as shown:
        Runner(world.store, config.hardware, world.launcher, [shown], {}).run(plan)


def test_a_terminal_shows_a_bar_for_the_running_node(world: World, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.show(monkeypatch)
    world.order("b", hold=30, pause=0.01)
    seen: list[str] = []

    def look() -> None:
        """While b stands in the middle of its steps."""
        try:
            wait_for(lambda: re.search(r"b +[━╺╸]+ +30/40 · loss 0\.033 · \S.* left", terminal.text))
            seen.append(terminal.text)
        finally:
            (world.orders / "b.go").touch()

    looking = later(look)
    run(world, steps=40)
    looking.join(60)
    terminal.close()
    assert seen and "1 of 3 nodes done" in seen[0] and re.search(r"✓ +a ", seen[0])
    assert re.search(r"✓ +c ", terminal.text) and "3 of 3 nodes done" in terminal.text


def test_a_terminal_shows_which_node_failed(world: World, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.show(monkeypatch)
    world.order("b", end="crash")
    with pytest.raises(StageFailed):
        run(world)
    terminal.close()
    assert re.search(r"✗ +b ", terminal.text) and "b failed" in terminal.text


def test_anything_else_gets_plain_lines(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a node and event, and one every so often for the running one; no cursor movements in a log file."""
    monkeypatch.setattr(live, "PLAIN_EVERY", 0.2)
    world.order("b", pause=0.05)
    world.order("c", end="crash")
    with pytest.raises(StageFailed):
        run(world, steps=20)
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(lines)
    assert [line for line in lines if ": run" in line] == [f"{name}: run (new)" for name in "abc"]
    assert [line.partition(" in ")[0] for line in lines if " in " in line] == ["a: done", "b: done", "c: failed"]
    assert any(re.fullmatch(r"b: \d+/20 · loss 0\.\d{3} · \S.* left", line) for line in lines)


def test_colour_that_is_forced_on_a_pipe_makes_it_no_terminal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(view(LiteralConsole(), planned(chain(), world.store)), PlainView)


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    world: World, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.show(monkeypatch)
    assert isinstance(view(LiteralConsole(), planned(chain(), world.store)), LiveView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view(LiteralConsole(), planned(chain(), world.store)), PlainView)


def test_a_long_plan_shows_what_runs_and_what_comes_next(world: World) -> None:
    plan = planned(chain(), world.store)
    shown = LiveView(LiteralConsole(), plan)
    shown.steps = [f"node{number}" for number in range(40)]
    shown.running = {"node20": Progress()}
    texts = [str(part) for part in shown._render().renderables]
    assert f"   and {40 - live.MAX_ROWS} more" in texts and "0 of 40 nodes done" in texts[0]


def test_a_node_that_starts_again_leaves_a_note(world: World) -> None:
    plan = planned(chain(), world.store)
    shown = LiveView(LiteralConsole(), plan)
    shown.started(plan["a"], world.store.root)
    shown.restarts(plan["a"], "a: the device ran out of memory")
    shown.started(plan["a"], world.store.root)
    assert [str(part) for part in shown._render().renderables][-1] == "a: the device ran out of memory"
    assert "0 of 3 nodes done" in str(shown._render().renderables[0])


def line(step: int, at: float, **metrics: float) -> dict[str, Any]:
    return {"step": step, "total": 100, "time": at, "metrics": metrics}


def test_the_pace_counts_neither_the_start_nor_what_was_done_before() -> None:
    """A resumed node goes on at step 50; its first line says when it began to move."""
    pace = Pace()
    assert pace.left() == ""
    pace.add([line(50, 1000.0)])
    assert pace.left() == "", "one line is no pace"
    pace.add([line(60, 1020.0)])
    assert pace.left() == "1 min 20 s left"
    pace.add([line(100, 1100.0)])
    assert pace.left() == ""


def test_a_line_says_loss_dev_loss_and_speed() -> None:
    pace = Pace()
    pace.add([line(1, 0.0, **{"train/loss": 2.3456, "train/tokens_per_second": 5900.0})])
    pace.add([line(1, 0.1, **{"dev/loss": 2.5})])
    assert pace.last and summary(pace.last) == "loss 2.346 · dev loss 2.500 · 5.9k tokens/s"
    assert summary(line(1, 0.0, **{"decode/sentences_per_second": 3.0})) == ""


def test_where_nobody_knows_how_much_there_is_the_rows_are_counted() -> None:
    """A hub set that is streamed; then the count of something else begins anew."""
    progress = Progress()
    progress.pace.add([line(800, 1000.0) | {"total": 0}, line(12_000, 1020.0) | {"total": 0}])
    assert progress.text() == "12,000 rows"
    progress.pace.add([line(10, 1030.0), line(20, 1040.0)])
    assert progress.text() == "20/100 · 1 min 20 s left"


def test_a_bar_without_an_end(world: World) -> None:
    shown = LiveView(LiteralConsole(), planned(chain(), world.store))
    shown.running = {"a": Progress()}
    shown.running["a"].pace.add([line(800, 1000.0) | {"total": 0}])
    _, _, bar, text = shown._row("a", 80)
    assert bar.total is None and text == "800 rows"
