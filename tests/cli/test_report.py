"""`report` and its tables for papers, as a user meets them."""

import re
import sys
from pathlib import Path

import pytest

from alma_pipeline.cli import main
from alma_pipeline.report import paper
from alma_pipeline.report.content import Report, build_report
from alma_pipeline.report.jobs import ReportJob, plan_job
from alma_pipeline.report.scoreboard import english_side
from alma_pipeline.store.store import Store
from helpers.finished_store import composed, finish

WORDS = ["data.languages=[de,zh]", "tracking=none"]


@pytest.fixture
def command(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(finished.root))


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["alma-pipeline", *words])
    return main.main()


def test_report_writes_a_page_and_prints_the_scores(
    command: None, finished: Store, report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", *WORDS) == 0
    text = capsys.readouterr().out
    page = finished.root / "reports" / f"{report.name}.html"
    assert re.fullmatch(r"cpo-and-arpo-model-tiny-[0-9a-f]{8}", report.name)
    assert f"report: {page}" in text and "</html>" in page.read_text(encoding="utf-8")
    cpo = [system.name for system in report.boards[0].systems].index("cpo")
    for row in report.boards[0].rows:
        cell = row.cells[cpo]
        assert cell and re.search(rf"^{row.name.replace('-', '→')} .*{cell.value:.1f}", text, re.MULTILINE)
    assert "MLflow" not in text, "tracking=none"


def test_tables_go_to_standard_output_or_a_file(
    command: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", "--format", "markdown", *WORDS) == 0
    text = capsys.readouterr().out
    assert run(monkeypatch, "report", "--format=markdown", "--output", str(tmp_path / "deep" / "table.md"), *WORDS) == 0
    assert (tmp_path / "deep" / "table.md").read_text(encoding="utf-8") == text and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--format", "pdf"], "--format: expected one of html, markdown, latex, found 'pdf'"),
        (["report", "cpo"], "unexpected word 'cpo'; settings are written"),
        (["report", "stage=cpo", "stages.cpo.bta=1"], "stages.cpo.bta"),
        (["report", "seed=7", *WORDS], "has no scores for this recipe.*run it first: alma-pipeline seed=7"),
        (["run", "--output", "x"], "run has no flag --output; it belongs to translate, report"),
        (["compare", "cpo"], "arguments are required: B; usage: alma-pipeline compare A B"),
    ],
)
def test_mistakes(
    command: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(monkeypatch, *words) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_place_that_cannot_be_written(
    command: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert run(monkeypatch, "report", "--format", "latex", "--output", str(tmp_path / "file" / "x.tex"), *WORDS) == 2
    assert "cannot be written" in capsys.readouterr().err and (tmp_path / "file").read_text() == "kept"


def test_a_file_that_cannot_be_written_is_refused_before_the_report_is_built(
    command: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alma_pipeline.cli.report.build_report", lambda *words: pytest.fail("nothing is computed"))
    assert run(monkeypatch, "report", "--output", str(tmp_path), *WORDS) == 2
    assert f"{tmp_path} is a folder; expected a file" in capsys.readouterr().err


def test_a_store_that_cannot_hold_the_page_still_has_tables(
    finished: Store, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "artifacts").symlink_to(finished.root / "artifacts")
    (tmp_path / "reports").write_text("no folder")
    monkeypatch.setattr("alma_pipeline.cli.report.build_report", lambda *words: report)
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path))
    assert run(monkeypatch, "report", *WORDS) == 0
    text = capsys.readouterr().out
    assert "chrF++" in text and "no page: " in text and "give another path with --output FILE" in text


def cells(line: str, separator: str) -> list[str]:
    return [part.strip() for part in line.strip(" |\\").split(separator)]


@pytest.mark.parametrize(("form", "separator", "bold"), [("markdown", "|", "**{}**"), ("latex", "&", r"\textbf{{{}}}")])
def test_tables_for_a_paper_hold_the_boards_numbers(report: Report, form: str, separator: str, bold: str) -> None:
    text = getattr(paper, form)(report)
    lines = [cells(line, separator) for line in text.splitlines() if line.lstrip("| ").startswith("cpo")]
    tables = list(paper.paper_tables(report))
    assert len(lines) == len(tables) == 7, "three metrics both ways, but BLEU into Chinese by itself"
    for line, table in zip(lines, tables, strict=True):
        row = dict(table.rows)["cpo"]
        for written, cell, best in zip(line[1:], row, table.best, strict=True):
            assert cell
            number = f"{cell.value:.1f}"
            assert written.startswith(bold.format(number) if cell.value == best else number), (written, cell)


def test_latex_is_balanced_and_escaped(report: Report) -> None:
    text = paper.latex(report)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 7
    assert r"parallel\_scratch" in text and "|" not in text and "→" not in text
    for table in text.split(r"\begin{table}")[1:]:
        width = len(re.search(r"\\begin\{tabular\}\{(l\w*)\}", table)[1])  # type: ignore[index]
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert rows and {line.count(" & ") + 1 for line in (f" {row}" for row in rows)} == {width}


def test_parts() -> None:
    assert [english_side(direction) for direction in ("en-de", "de-en", "de-zh")] == ["en→xx", "xx→en", "xx→xx"]


def test_an_unfinished_recipe_is_reported_as_far_as_it_went(store: Store) -> None:
    finish(store, but="cpo")
    job = plan_job([], composed(), Store(store.root))
    report = build_report([], [job], store)
    boxes = {box.name: box.status for box in report.graph.boxes}
    assert boxes["cpo"] == "missing" and boxes["parallel"] == "done"
    assert "cpo" not in [system.name for system in report.systems] and "arpo" in [system.name for system in report.systems]


def test_the_picture_joins_what_was_made_from_what(job: ReportJob, report: Report) -> None:
    boxes = {box.name: box for box in report.graph.boxes}
    assert {box.name for box in boxes["mono"].children} == {"parallel", "g1.group_adapter", "g6.group_adapter"}
    assert boxes["cpo"].target and boxes["cpo"].summary.startswith("chrF++ ")
    places = [(box.x, box.y) for box in report.graph.boxes]
    assert len(set(places)) == len(places), "no box on another"
    assert all(child.x > box.x for box in report.graph.boxes for child in box.children)
