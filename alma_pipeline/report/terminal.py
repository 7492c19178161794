"""Score tables for a terminal: directions as rows, systems as columns, split into several tables if they exceed the width."""

import re
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from alma_pipeline.console import LiteralConsole
from alma_pipeline.report.names import VERDICT_MARKS, arrow, signed
from alma_pipeline.report.scoreboard import Board, Cell
from alma_pipeline.schema.metrics import metric_label

STYLES = {"better": "green", "worse": "red", "tie": "dim", "": "dim"}
GAP = 2


def print_board(screen: LiteralConsole, board: Board, relation: str = "") -> None:
    """Print a heading and the board's tables. `relation`: the word before the baseline's name, in place of the system's own."""
    lower = "" if board.higher_is_better else ", lower is better"
    screen.print_line(f"\n{metric_label(board.metric)} on {board.test}{lower}  {board.signature}", style="bold")
    for table in score_tables(board, screen.width, relation):
        screen.print(table)


def score_tables(board: Board, width: int, relation: str) -> Iterator[Table]:
    """The tables of one board, each at most `width` characters wide unless one column exceeds that; means come first."""
    columns = [_column(board, place, relation) for place in range(len(board.systems))]
    names = [Text(arrow(row.name), style="bold" if row.mean else "") for row in board.rows]
    left = max(map(len, names))
    # Every table repeats the directions, so that each can be read alone.
    for group in _packed(columns, width - left):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        table.add_column("", no_wrap=True)
        for header, _ in group:
            table.add_column(header, justify="right", no_wrap=True)
        for place, name in enumerate(names):
            table.add_row(name, *(cells[place] for _, cells in group))
        yield table


def _column(board: Board, place: int, relation: str) -> tuple[str, list[Text]]:
    """A system's header and cells; the header is wrapped to the width of the cells."""
    cells = []
    for row in board.rows:
        cell = row.cells[place]
        cells.append(cell_text(cell, cell.value == board.best(row.cells) and not cell.covers) if cell else Text())
    system = board.systems[place]
    width = max(map(len, cells))
    comparison = f"{relation} {system.baseline}" if relation and system.baseline else system.comparison
    lines = [*_wrapped(system.label, width), *(_wrapped(comparison, width) if comparison else [])]
    return "\n".join(lines), cells


def _wrapped(name: str, width: int) -> Iterator[str]:
    """The name in lines of at most `width`, broken only after underscores, dots and spaces."""
    line = ""
    for part in re.findall(r"[^_. ]+[_. ]*|[_. ]+", name):
        if line and len(f"{line}{part}".rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += part
    yield line.rstrip()


def _packed(columns: list[tuple[str, list[Text]]], width: int) -> Iterator[list[tuple[str, list[Text]]]]:
    """The columns in order, in groups that fit into `width`; at least one in each."""
    group: list[tuple[str, list[Text]]] = []
    left = width
    for header, cells in columns:
        needed = GAP + max(*map(len, header.splitlines()), *map(len, cells), 1)
        if group and needed > left:
            yield group
            group, left = [], width
        group.append((header, cells))
        left -= needed
    yield group


def cell_text(cell: Cell, best: bool) -> Text:
    """A score with its deviation and difference: `68.2 ±0.4 ▲+1.2`."""
    parts: list[tuple[str, str]] = [(f"{cell.value:.1f}", "bold" if best else "")]
    if cell.spread is not None:
        parts.append((f" ±{cell.spread:.1f}", "dim"))
    if cell.covers:
        parts.append((f" ({cell.covers})", "dim"))
    if cell.delta is not None:
        parts.append((f" {VERDICT_MARKS.get(cell.verdict, '')}{signed(cell.delta)}", STYLES[cell.verdict]))
    return Text.assemble(*parts)
