"""Score tables for a paper, in Markdown and in LaTeX: systems as rows, languages as columns, a table for each side of English."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.report.caveats import footnotes
from alma_pipeline.report.content import Report
from alma_pipeline.report.names import VERDICT_MARKS
from alma_pipeline.report.scoreboard import ENGLISH_SIDES, Board, Cell, ScoreRow, english_side, kinds_of_tests
from alma_pipeline.report.significance import LEVEL, describe_tests
from alma_pipeline.schema.metrics import metric_label

MARKDOWN_MARKS = {verdict: f" {mark}" for verdict, mark in VERDICT_MARKS.items()}
LATEX_MARKS = {"better": r"$^{\blacktriangle}$", "worse": r"$^{\blacktriangledown}$", "tie": r"$^{\approx}$"}
"""In math mode; the triangles are of the package amssymb."""
MEANINGS = {"better": "better", "worse": "worse", "tie": f"may be chance (p ≥ {LEVEL})"}
LATEX_SYMBOLS = {"→": r"$\to$", "≥": r"$\ge$", "|": r"\textbar{}", "±": r"$\pm$"} | {
    mark: LATEX_MARKS[verdict].replace("^", "") for verdict, mark in VERDICT_MARKS.items()
}
LATEX_ESCAPES = str.maketrans(
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


def paper_tables(content: Report) -> Iterator[PaperTable]:
    """Every metric, signature and side of English of a report."""
    for board in content.boards:
        for part in ENGLISH_SIDES:
            rows = [row for row in board.rows if (row.name == part if row.mean else english_side(row.name) == part)]
            if rows:
                yield _table(board, part, [*rows[1:], rows[0]], content)


def _table(board: Board, part: str, rows: list[ScoreRow], content: Report) -> PaperTable:
    """The mean comes last."""
    columns = [row.name.replace("-", "→") for row in rows[:-1]] + ["mean"]
    shown = [(system, cells) for place, system in enumerate(board.systems) if any(cells := [row.cells[place] for row in rows])]
    best = [board.best(row.cells) if len(shown) > 1 else None for row in rows]
    lower = "" if board.higher_is_better else ", lower is better"
    sentences = [
        f"{metric_label(board.metric)}{lower}, {part}, {board.test} (signature {board.signature})",
        *_explained([cell for _, cells in shown for cell in cells if cell], content.significance),
        *footnotes([system for system, _ in shown]),
    ]
    return PaperTable(". ".join(sentences) + ".", columns, [(system.label, cells) for system, cells in shown], best)


def _explained(cells: list[Cell], test: str) -> Iterator[str]:
    """What the marks, deviations and partial means in these cells are; nothing of those that are not there."""
    if verdicts := [verdict for verdict in VERDICT_MARKS if any(cell.verdict == verdict for cell in cells)]:
        marks = ", ".join(f"{VERDICT_MARKS[verdict]} {MEANINGS[verdict]}" for verdict in verdicts)
        how = describe_tests(test, kinds_of_tests([[*cells]]))
        yield f"Against the system each was trained from or is compared with: {marks}; {how}"
    if any(cell.spread is not None for cell in cells):
        yield "± standard deviation over seeds"
    if any(cell.covers for cell in cells):
        yield "In brackets: how many of the directions a mean covers"


def markdown(content: Report) -> str:
    """GitHub's tables, the captions as paragraphs."""
    return "\n\n".join(_markdown(table) for table in paper_tables(content)) + "\n"


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


def latex(content: Report) -> str:
    """Floats for the packages booktabs and amssymb."""
    return "\n\n".join(_latex(table) for table in paper_tables(content)) + "\n"


def _latex(table: PaperTable) -> str:
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
