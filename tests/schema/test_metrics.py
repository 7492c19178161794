"""A metric of sacrebleu's is one entry of one table: scores, reports, comparisons, cards and papers take it from there."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import CHRF, TER

from alma_pipeline.cli import compare
from alma_pipeline.console import LiteralConsole
from alma_pipeline.ml.scoring import sacrebleu_metrics
from alma_pipeline.model_card import card
from alma_pipeline.report import page, paper, terminal
from alma_pipeline.report.content import Report, build_report
from alma_pipeline.report.jobs import plan_jobs
from alma_pipeline.report.scoreboard import tab_names
from alma_pipeline.schema.metrics import METRICS, Metric
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.store import Store
from helpers import finished_store
from helpers.finished_store import finish
from helpers.model_cards import header

NEW = (
    Metric(name="chrf", label="chrF", type="CHRF", options=lambda _: {"word_order": 0}),
    Metric(name="edits", label="Edits", type="TER", options=lambda _: {"no_punct": True}, lower_is_better=True),
)
WORDS = ["stage=cpo", "evaluation.metrics=[chrf++,chrf,edits]", "data.languages=[de,zh]", "tracking=none"]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """Two entries more, and a recipe that was scored by them."""
    for metric in NEW:
        monkeypatch.setitem(METRICS, metric.name, metric)
    as_before = finished_store.scored

    def scored(rows: list[dict[str, str]], languages: Any) -> dict[str, Any]:
        result: dict[str, Any] = as_before(rows, languages)
        for direction, scores in result["directions"].items():
            mine = [row for row in rows if row["direction"] == direction]
            texts = [row["hypothesis"] for row in mine], [row["reference"] for row in mine]
            for metric in NEW:
                found = sacrebleu_metrics.measure(metric.name, languages[direction.split("-")[1]].tokenizer, *texts)
                scores[metric.name] = found.score
                result["signatures"].setdefault(metric.name, {})[direction] = found.signature
        return result

    monkeypatch.setattr(finished_store, "scored", scored)
    finish(Store(tmp_path / "store"), *WORDS[:2])
    return Store(tmp_path / "store")


@pytest.fixture
def report(store: Store) -> Report:
    return build_report(WORDS, plan_jobs(WORDS, store), store)


def test_it_is_computed_by_sacrebleu_with_its_options(store: Store) -> None:
    texts = ["the dog, sees", "a cat"], ["the dog sees", "a cat!"]
    for name, expected in (("chrf", CHRF()), ("edits", TER(no_punct=True))):
        found = sacrebleu_metrics.measure(name, "13a", *texts)
        assert found.score == expected.corpus_score(texts[0], [texts[1]]).score
        assert found.signature == str(expected.get_signature())


def test_it_is_in_the_report_and_on_the_page(report: Report) -> None:
    assert {"chrF", "Edits"} <= set(tab_names(report.boards))
    shown = page.render(report)
    assert "-m chrf --chrf-word-order 0" in shown and "-m ter --ter-no-punct" in shown
    assert "Edits <small>lower is better" in shown and "chrF <small>higher is better" in shown


def test_lower_is_better_in_marks_and_in_the_best_of_a_row(report: Report) -> None:
    """The simulated cpo makes fewest errors: lowest by Edits, highest by chrF."""
    marks = {}
    for metric in ("chrf", "edits"):
        board = next(board for board in report.boards if board.metric == metric)
        place = [system.name for system in board.systems].index("cpo")
        cells = [(row.cells[place], row) for row in board.rows if not row.mean]
        assert all(cell and board.best(row.cells) == cell.value for cell, row in cells)
        assert all(cell and cell.delta and (cell.delta < 0) == (metric == "edits") for cell, _ in cells)
        marks[metric] = [cell.verdict for cell, _ in cells if cell]
    assert "better" in marks["edits"] and "worse" not in marks["edits"] + marks["chrf"]


def test_it_is_in_the_terminal_and_in_a_comparison(store: Store, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    for board in report.boards:
        terminal.print_board(LiteralConsole(), board)
    assert compare.compare(store.root, ["cpo", "parallel"]) == 0
    reported, compared = capsys.readouterr().out.split("A: cpo", 1)
    for out in (reported, compared):
        assert re.search(r"^chrF on CLDR", out, re.MULTILINE) and re.search(r"^Edits on CLDR.*lower is better", out, re.MULTILINE)
    assert "▼+" in compared.partition("Edits on")[2], "parallel makes more errors than cpo, and is worse"


def test_it_is_in_papers_and_on_the_card(store: Store, report: Report) -> None:
    assert "\nEdits, lower is better, en→xx" in paper.markdown(report) and r"\caption{chrF, en$\to$xx" in paper.latex(report)
    record = find_artifact(store, "cpo")
    record = replace(record, checkpoint={"form": "full", "base_key": record.key, "adapter_keys": []})
    text = card.render_card(store, record, {"precision": "fp32"}, False, "me/tiny")
    assert "| chrF | Edits ↓ |" in text and "-m ter --ter-no-punct" in text
    assert {"chrF", "Edits"} <= {result.metric_name for result in header(text).eval_results}


def test_a_caption_says_what_its_table_holds(report: Report) -> None:
    for table in paper.paper_tables(report):
        assert "across seeds" not in table.caption and "±" not in table.caption and "In parentheses" not in table.caption
        assert ("over segments" in table.caption) == table.caption.startswith("quality")
        verdicts = {cell.verdict for _, cells in table.rows for cell in cells if cell}
        for verdict, mark in (("better", "▲"), ("worse", "▼"), ("tie", "≈")):
            assert (mark in table.caption) == (verdict in verdicts)
