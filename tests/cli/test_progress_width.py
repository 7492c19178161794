"""The live table on a terminal of 80 columns: whatever has to go, what is left to wait for stays."""

import io

import pytest

from alma_pipeline.cli.progress import LiveView, Progress
from alma_pipeline.console import LiteralConsole
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import chain, planned


def progress() -> Progress:
    found = Progress()
    metrics = {"train/loss": 12.3456, "train/tokens_per_second": 12_345.0}
    found.pace.add([{"time": 100.0, "step": 1, "total": 12_000, "metrics": metrics}])
    found.pace.add([{"time": 400.0, "step": 1_200, "total": 12_000, "metrics": metrics}])
    return found


WHOLE = "1,200/12,000 · loss 12.346 · 12.3k tokens/s · 45 min 02 s left"
SLOWER = "1,200/12,000 · loss 12.346 · 45 min 02 s left"
LEAST = "1,200/12,000 · 45 min 02 s left"


def test_what_goes_first() -> None:
    found = {room: progress().text(room) for room in range(5, 80)}
    for room, text in found.items():
        assert text == (WHOLE if room >= len(WHOLE) else SLOWER if room >= len(SLOWER) else LEAST)
    assert progress().text() == WHOLE


@pytest.mark.parametrize("width", [80, 120])
def test_every_running_node_is_shown_with_its_time_left(store: Store, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    file = io.StringIO()
    console = LiteralConsole()
    console.file, console.width = file, width
    shown = LiveView(console, planned(chain(), store))
    shown.steps = [f"node{number}" for number in range(40)]
    shown.took = dict.fromkeys(shown.steps[:20], 1.0)
    shown.running = {"g1.group_pseudo_mono": progress(), "g5.group_parallel.translate": progress()}
    console.print(shown._render())
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for name in shown.running:
        (line,) = [line for line in lines if name in line]
        assert line.rstrip().endswith("45 min 02 s left")
    assert sum(line.startswith("✓") for line in lines) == 4, "marks are not cut away"
