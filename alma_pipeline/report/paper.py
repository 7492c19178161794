"""Score tables for a paper, in Markdown and in LaTeX: systems as rows, languages as columns, a table for each side of English."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.report.caveats import notes
from alma_pipeline.report.content import Content
from alma_pipeline.report.names import metric_name
from alma_pipeline.report.scoreboard import PARTS, Board, Cell, Row, part_of

MARKDOWN = {"better": " ▲", "worse": " ▼", "tie": " ≈"}
LATEX = {"better": r"$^{\uparrow}$", "worse": r"$^{\downarrow}$", "tie": r"$^{\approx}$"}
ESCAPED = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"†": r"\textdagger{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class PaperTable:
    """A board as a paper prints it."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    best: list[float | None]
    """Of each column."""


def tables(content: Content) -> Iterator[PaperTable]:
    """Every metric, signature and side of English of a report."""
    for board in content.boards:
        for part in PARTS:
            rows = [row for row in board.rows if (row.name == part if row.mean else part_of(row.name) == part)]
            if rows:
                yield _table(board, part, [*rows[1:], rows[0]], content)


def _table(board: Board, part: str, rows: list[Row], content: Content) -> PaperTable:
    """The mean comes last."""
    columns = [row.name.replace("-", "→") for row in rows[:-1]] + ["mean"]
    systems = [(system.label, [row.cells[place] for row in rows]) for place, system in enumerate(board.systems)]
    seen = ". ".join(notes(board.systems))
    caption = (
        f"{metric_name(board.metric)}, {part}, {board.test} (signature {board.signature}). Marks compare each system with the "
        f"one it was trained from or is held against: better, worse, or a difference that may be chance (p ≥ 0.05, "
        f"{content.method})." + (f" {seen}." if seen else "")
    )
    return PaperTable(caption, columns, [row for row in systems if any(row[1])], [board.best(row.cells) for row in rows])


def markdown(content: Content) -> str:
    """GitHub's tables, the captions as paragraphs."""
    return "\n\n".join(_markdown(table) for table in tables(content)) + "\n"


def _markdown(table: PaperTable) -> str:
    lines = [["system", *table.columns], ["---", *["---:"] * len(table.columns)]]
    for name, cells in table.rows:
        lines.append(
            [
                name.replace("_", r"\_"),
                *(_cell(cell, best, "**{}**", MARKDOWN, "±") for cell, best in zip(cells, table.best, strict=True)),
            ]
        )
    return f"{table.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(content: Content) -> str:
    """Floats for the package booktabs."""
    return "\n\n".join(_latex(table) for table in tables(content)) + "\n"


def _latex(table: PaperTable) -> str:
    head = " & ".join(["", *(column.replace("→", r"$\to$") for column in table.columns)])
    rows = [
        " & ".join(
            [
                name.translate(ESCAPED),
                *(_cell(cell, best, r"\textbf{{{}}}", LATEX, r"$\pm$") for cell, best in zip(cells, table.best, strict=True)),
            ]
        )
        for name, cells in table.rows
    ]
    caption = table.caption.translate(ESCAPED).replace("→", r"$\to$").replace("≥", r"$\ge$").replace("|", r"\textbar{}")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *(rf"{row} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
        ]
    )


def _cell(cell: Cell | None, best: float | None, bold: str, marks: dict[str, str], plus_minus: str) -> str:
    if cell is None:
        return ""
    text = f"{cell.value:.1f}"
    text = bold.format(text) if cell.value == best and not cell.covers else text
    spread = f" {plus_minus}{cell.spread:.1f}" if cell.spread is not None else ""
    covers = f" ({cell.covers})" if cell.covers else ""
    return f"{text}{spread}{covers}{marks.get(cell.verdict, '')}"
