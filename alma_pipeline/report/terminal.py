"""The score tables of a report in a terminal: directions as rows, systems as columns, in as many tables as the width asks for."""

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
    """A heading and tables; `relation` says how a system stands to the one that its differences are from, where it does not."""
    lower = "" if board.higher_is_better else ", lower is better"
    screen.print_line(f"\n{metric_label(board.metric)} on {board.test}{lower}  {board.signature}", style="bold")
    for table in score_tables(board, screen.width, relation):
        screen.print(table)


def score_tables(board: Board, width: int, relation: str) -> Iterator[Table]:
    """One board, its means first."""
    columns = [_column(board, place, relation) for place in range(len(board.systems))]
    names = [Text(arrow(row.name), style="bold" if row.mean else "") for row in board.rows]
    left = max(map(len, names))
    for group in _packed(columns, width - left):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        table.add_column("", no_wrap=True)
        for header, _ in group:
            table.add_column(header, justify="right", no_wrap=True)
        for place, name in enumerate(names):
            table.add_row(name, *(cells[place] for _, cells in group))
        yield table


def _column(board: Board, place: int, relation: str) -> tuple[str, list[Text]]:
    """A system's header and cells; the header is no wider than it has to be."""
    cells = []
    for row in board.rows:
        cell = row.cells[place]
        cells.append(cell_text(cell, cell.value == board.best(row.cells) and not cell.covers) if cell else Text())
    system = board.systems[place]
    width = max(map(len, cells))
    stands = f"{relation} {system.parent}" if relation and system.parent else system.stands
    lines = [*_broken(system.label, width), *(_broken(stands, width) if stands else [])]
    return "\n".join(lines), cells


def _broken(name: str, width: int) -> Iterator[str]:
    """In lines of at most `width` where underscores, dots and spaces allow it."""
    line = ""
    for part in re.findall(r"[^_. ]+[_. ]*|[_. ]+", name):
        if line and len(f"{line}{part}".rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += part
    yield line.rstrip()


def _packed(columns: list[tuple[str, list[Text]]], width: int) -> Iterator[list[tuple[str, list[Text]]]]:
    """In their order, in groups that fit; at least one in each."""
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
    """`68.2 ±0.4 ▲+1.2`."""
    parts: list[tuple[str, str]] = [(f"{cell.value:.1f}", "bold" if best else "")]
    if cell.spread is not None:
        parts.append((f" ±{cell.spread:.1f}", "dim"))
    if cell.covers:
        parts.append((f" ({cell.covers})", "dim"))
    if cell.delta is not None:
        parts.append((f" {VERDICT_MARKS.get(cell.verdict, '')}{signed(cell.delta)}", STYLES[cell.verdict]))
    return Text.assemble(*parts)
