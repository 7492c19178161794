"""Score tables for papers, in Markdown and LaTeX: systems as rows, directions as columns, one table per side of English."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.report.caveats import footnotes, unscored_notes
from alma_pipeline.report.content import Report
from alma_pipeline.report.names import VERDICT_MARKS
from alma_pipeline.report.scoreboard import ENGLISH_SIDES, Board, Cell, ScoreRow, english_side, kinds_of_tests
from alma_pipeline.report.significance import LEVEL, describe_tests
from alma_pipeline.schema.metrics import metric_label

MARKDOWN_MARKS = {verdict: f" {mark}" for verdict, mark in VERDICT_MARKS.items()}
LATEX_MARKS = {"better": r"$^{\blacktriangle}$", "worse": r"$^{\blacktriangledown}$", "tie": r"$^{\approx}$"}
"""Math mode; the triangles need the package amssymb."""
MEANINGS = {"better": "better", "worse": "worse", "tie": f"not significant (p ≥ {LEVEL})"}
LATEX_SYMBOLS = {"→": r"$\to$", "≥": r"$\ge$", "|": r"\textbar{}", "±": r"$\pm$"} | {
    mark: LATEX_MARKS[verdict].replace("^", "") for verdict, mark in VERDICT_MARKS.items()
}
LATEX_ESCAPES = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"†": r"\textdagger{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class PaperTable:
    """One side of English of a board, transposed."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    best: list[float | None]
    """The best value of each column; None marks none."""


def paper_tables(report: Report) -> Iterator[PaperTable]:
    """A table for every board and side of English that has directions."""
    for board in report.boards:
        for part in ENGLISH_SIDES:
            rows = [row for row in board.rows if (row.name == part if row.mean else english_side(row.name) == part)]
            if rows:
                yield _table(board, part, [*rows[1:], rows[0]], report)


def _table(board: Board, part: str, rows: list[ScoreRow], report: Report) -> PaperTable:
    """`rows` are directions, with their mean last."""
    columns = [row.name.replace("-", "→") for row in rows[:-1]] + ["mean"]
    # Systems without any score on this side would be empty rows; a single row has no best.
    shown = [(system, cells) for place, system in enumerate(board.systems) if any(cells := [row.cells[place] for row in rows])]
    best = [board.best(row.cells) if len(shown) > 1 else None for row in rows]
    # The caption alone must say what the table holds, once it is pasted into a paper.
    lower = "" if board.higher_is_better else ", lower is better"
    sentences = [
        f"{metric_label(board.metric)}{lower}, {part}, {board.test} (signature {board.signature})",
        *_legend([cell for _, cells in shown for cell in cells if cell], report.significance),
        *footnotes([system for system, _ in shown]),
        *unscored_notes((each for system, _ in shown for each in system.evaluations), board.metric),
    ]
    return PaperTable(". ".join(sentences) + ".", columns, [(system.label, cells) for system, cells in shown], best)


def _legend(cells: list[Cell], test: str) -> Iterator[str]:
    """A legend to the marks, deviations and partial means that occur in these cells."""
    if verdicts := [verdict for verdict in VERDICT_MARKS if any(cell.verdict == verdict for cell in cells)]:
        marks = ", ".join(f"{VERDICT_MARKS[verdict]} {MEANINGS[verdict]}" for verdict in verdicts)
        how = describe_tests(test, kinds_of_tests([[*cells]]))
        yield f"Compared with the system each was trained from, or its baseline: {marks}; {how}"
    if any(cell.spread is not None for cell in cells):
        yield "± standard deviation over seeds"
    if any(cell.covers for cell in cells):
        yield "In parentheses: the number of directions that a mean covers"


def markdown(report: Report) -> str:
    """GitHub-flavoured tables, each below its caption."""
    return "\n\n".join(_markdown(table) for table in paper_tables(report)) + "\n"


def _markdown(table: PaperTable) -> str:
    lines = [["system", *table.columns], ["---", *["---:"] * len(table.columns)]]
    for name, cells in table.rows:
        lines.append(
            [
                name.replace("_", r"\_"),
                *(_cell(cell, best, "**{}**", MARKDOWN_MARKS, "±") for cell, best in zip(cells, table.best, strict=True)),
            ]
        )
    return f"{table.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(report: Report) -> str:
    """Table environments; they need the packages booktabs and amssymb."""
    return "\n\n".join(_latex(table) for table in paper_tables(report)) + "\n"


def _latex(table: PaperTable) -> str:
    # The first column has no heading.
    head = " & ".join(["", *(column.replace("→", r"$\to$") for column in table.columns)])
    rows = [
        " & ".join(
            [
                name.translate(LATEX_ESCAPES),
                *(
                    _cell(cell, best, r"\textbf{{{}}}", LATEX_MARKS, r"$\pm$")
                    for cell, best in zip(cells, table.best, strict=True)
                ),
            ]
        )
        for name, cells in table.rows
    ]
    # LaTeX's own characters are escaped in the same pass in which symbols become commands, so neither touches the other.
    caption = table.caption.translate(LATEX_ESCAPES | str.maketrans(LATEX_SYMBOLS))
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
