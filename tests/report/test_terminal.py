"""Score tables on terminals of any width."""

import io

import pytest
from rich.console import Console

from alma_pipeline.report.scoreboard import Board, Cell, ScoreRow
from alma_pipeline.report.systems import System
from alma_pipeline.report.terminal import score_tables

NAMES = {"base": "", "parallel_scratch": "base", "parallel": "base", "group_parallel": "base", "arpo": "group_parallel"}
SYSTEMS = [System(name, "test", baseline=parent) for name, parent in NAMES.items()]
WORSE = Cell(64.3, 0.4, 3, delta=-58.9, p=0.01, verdict="worse")
BOARD = Board(
    "test", "chrf++", "", SYSTEMS, [ScoreRow("en→xx", [Cell(4.7), *[WORSE] * 4], True), ScoreRow("en-de", [None, *[WORSE] * 4])]
)


@pytest.mark.parametrize(("width", "tables"), [(20, 5), (60, 2), (80, 2), (120, 1)])
def test_no_line_is_cut_or_folded(width: int, tables: int) -> None:
    found = list(score_tables(BOARD, width, "from"))
    assert len(found) == tables
    console = Console(file=io.StringIO(), width=max(width, 26))
    for table in found:
        console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= max(width, 26)
    assert sum(line.count("64.3 ±0.4 ▼−58.9") for line in lines) == 8, "every cell whole, on one line"
    assert sum(line.startswith("en→de") for line in lines) == tables


def test_names_break_where_their_parts_do() -> None:
    board = Board("test", "chrf++", "", SYSTEMS[1:2], [ScoreRow("en-de", [Cell(1.0)])])
    (table,) = score_tables(board, 80, "from")
    assert table.columns[1].header == "parallel_\nscratch\nfrom\nbase"
