"""Scores side by side: what they are, what they are compared with, and by which test."""

import os
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from alma_pipeline.instants import NEVER
from alma_pipeline.ml.scoring.paired_tests import compare_segments
from alma_pipeline.model_card.scores import score_table
from alma_pipeline.report import paper, significance
from alma_pipeline.report.caveats import unscored_notes
from alma_pipeline.report.content import Report, build_report
from alma_pipeline.report.guard_rates import guard_rates
from alma_pipeline.report.jobs import ReportJob, plan_job
from alma_pipeline.report.lengths import scores_by_length
from alma_pipeline.report.scoreboard import Board, Cell, build_boards, compare_direction, tab_names
from alma_pipeline.report.significance import PairedTests, seed_test
from alma_pipeline.report.systems import ScoredCheckpoint, System, systems
from alma_pipeline.report.terminal import cell_text
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.finished_store import SEGMENTS, composed


def test_systems_know_what_they_were_trained_from(job: ReportJob) -> None:
    assert {system.name: system.baseline for system in systems([job])} == {
        "base": "",
        "parallel_scratch": "base",
        "parallel": "base",
        "cpo": "parallel",
        "group_parallel": "base",
        "arpo": "group_parallel",
    }


def test_each_direction_is_answered_by_its_groups_adapter(job: ReportJob) -> None:
    arpo = next(system for system in systems([job]) if system.name == "arpo")
    assert {direction: evaluation.checkpoint for direction, evaluation in arpo.seeds[0].items()} == {
        "de-en": "g1.arpo",
        "en-de": "g1.arpo",
        "zh-en": "g6.arpo",
        "en-zh": "g6.arpo",
    }


def test_scores_of_different_signatures_share_no_column(report: Report) -> None:
    """B49: BLEU into Chinese is another number than BLEU into German."""
    directions = {
        board.signature: {row.name for row in board.rows if not row.mean} for board in report.boards if board.metric == "bleu"
    }
    assert sorted(map(sorted, directions.values())) == [["de-en", "en-de", "zh-en"], ["en-zh"]]


def test_a_cell_is_the_recorded_score_and_its_difference(report: Report) -> None:
    board = report.boards[0]
    names = [system.name for system in board.systems]
    row = next(row for row in board.rows if row.name == "en-de")
    cpo, parallel = (row.cells[names.index(name)] for name in ("cpo", "parallel"))
    assert cpo and parallel and cpo.delta is not None
    assert cpo.value == board.systems[names.index("cpo")].seeds[0]["en-de"].result["directions"]["en-de"]["chrf++"]
    assert cpo.delta == pytest.approx(cpo.value - parallel.value)
    assert cpo.verdict == "better" and cpo.p is not None and cpo.p < 0.05
    assert row.cells[names.index("base")].delta is None  # type: ignore[union-attr]


def test_a_mean_is_that_of_its_rows_and_counts_their_verdicts(report: Report) -> None:
    board = report.boards[0]
    for row in [row for row in board.rows if row.mean]:
        own = [other for other in board.rows if not other.mean and (other.name.startswith("en-") == (row.name == "en→xx"))]
        for place, cell in enumerate(row.cells):
            cells = [other.cells[place] for other in own]
            assert cell and cell.value == pytest.approx(statistics.fmean(part.value for part in cells if part))
            assert sum(cell.tally.values()) == (0 if board.systems[place].name == "base" else len(own))


def command_p_value(
    folder: Path, one: ScoredCheckpoint, other: ScoredCheckpoint, direction: str, test: str, *words: str
) -> float:
    """`test`: --paired-bs or --paired-ar. Of sacrebleu's own command on the same segments."""
    texts = {"ref": [row["reference"] for row in one.segments[direction]]}
    texts |= {name: [row["hypothesis"] for row in side.segments[direction]] for name, side in (("a", one), ("b", other))}
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "a", "b", test, "-f", "text", *words]
    environment = {name: value for name, value in os.environ.items() if name != "SACREBLEU_SEED"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return float(re.findall(r"\(p = (\d\.\d+)\)", done.stdout)[0])


@pytest.mark.parametrize(
    ("metric", "direction", "words"),
    [
        ("chrf++", "en-de", ["-m", "chrf", "--chrf-word-order", "2"]),
        ("bleu", "en-zh", ["-m", "bleu", "--tokenize", "zh"]),
    ],
)
def test_p_values_are_those_of_the_sacrebleu_command(
    report: Report, tmp_path: Path, metric: str, direction: str, words: list[str]
) -> None:
    board = next(board for board in report.boards if board.metric == metric and direction in [row.name for row in board.rows])
    names = [system.name for system in board.systems]
    one, other = (board.systems[names.index(name)].seeds[0][direction] for name in ("group_parallel", "arpo"))
    cell = next(row for row in board.rows if row.name == direction).cells[names.index("arpo")]
    assert cell and cell.p == pytest.approx(command_p_value(tmp_path, one, other, direction, "--paired-bs", *words), abs=1e-4)


def test_p_values_by_approximate_randomisation(job: ReportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(significance.SAMPLES, "randomisation", 200)
    found = {system.name: system.seeds[0]["en-de"] for system in systems([job])}
    one, other = found["group_parallel"], found["arpo"]
    chance = compare_direction(one, other, "en-de", "chrf++", PairedTests(tmp_path / "memory", "randomisation"))
    words = ["--paired-ar-n", "200", "-m", "chrf", "--chrf-word-order", "2"]
    assert chance and chance.p == pytest.approx(command_p_value(tmp_path, one, other, "en-de", "--paired-ar", *words), abs=1e-4)


def test_the_paired_test_is_a_setting_and_named(job: ReportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def answer(test: str, *texts: object) -> float:
        asked.add(test)
        return 0.2

    monkeypatch.setattr(significance, "sacrebleu_p_value", answer)
    chosen = replace(job, config=composed("evaluation.significance=randomisation"))
    found = build_report(["stage=all"], [chosen], Store(tmp_path / "empty"))
    assert asked == {"randomisation"}
    assert "approximate randomisation with 10000 trials" in found.method and "bootstrap" not in found.method
    assert "approximate randomisation with 10000 trials" in paper.markdown(found)
    assert "bootstrap resampling with 1000 samples" in significance.describe_tests("bootstrap", {significance.SACREBLEU})


def test_the_paired_test_is_in_no_key(job: ReportJob, finished: Store) -> None:
    plan = plan_job([], composed("evaluation.significance=randomisation"), finished).plan
    assert [step.key for step in plan.steps] == [step.key for step in job.plan.steps]


def test_a_metric_with_segment_scores_has_a_paired_t_test_and_a_bootstrap(report: Report) -> None:
    board = next(board for board in report.boards if board.metric == "quality")
    names = [system.name for system in board.systems]
    one, other = (board.systems[names.index(name)].seeds[0]["en-de"].segments["en-de"] for name in ("parallel", "cpo"))
    scores = [[row["scores"]["quality"] for row in rows] for rows in (other, one)]
    expected = stats.ttest_rel(*scores).pvalue
    cell = next(row for row in board.rows if row.name == "en-de").cells[names.index("cpo")]
    assert cell and cell.p == pytest.approx(expected)
    assert cell.p is not None and cell.p < 1
    assert cell.wins == compare_segments(*reversed(scores)).wins
    assert cell.wins is not None and 0.5 < cell.wins <= 1
    assert [row.cells[0].wins for row in board.rows if row.cells[0]] == [None] * len(board.rows), "the base beats nobody"


def test_a_mean_over_some_directions_does_not_win() -> None:
    cells = [Cell(90.0, covers="1 of 4"), Cell(60.0), None, Cell(50.0)]
    assert Board("t", "chrf++", "s", [], []).best(cells) == 60.0
    assert Board("t", "ter", "s", [], [], higher_is_better=False).best(cells) == 50.0
    assert Board("t", "ter", "s", [], []).best(cells[:1]) is None
    assert cell_text(cells[0], False).plain == "90.0 (1 of 4)"  # type: ignore[arg-type]


def test_tabs_tell_boards_of_one_metric_apart(report: Report) -> None:
    assert tab_names(report.boards) == ["chrF++", "BLEU into en, de", "BLEU into zh", "quality"]
    two = [*report.boards, replace(report.boards[0], test="another")]
    assert tab_names(two)[0] == f"chrF++ · {report.boards[0].test}" and tab_names(two)[-1] == "chrF++ · another"


def test_a_group_that_was_not_scored_hides_no_parent(job: ReportJob) -> None:
    gone = tuple(f"g1.{name}" for name in ("group_parallel", "arpo"))
    records = {name: record for name, record in job.records.items() if not name.startswith(gone)}
    found = {system.name: system.baseline for system in systems([replace(job, records=records)])}
    assert found["arpo"] == "group_parallel"


def test_lengths_average_one_signature_only() -> None:
    result = {
        "directions": {"en-de": {"ter": 1.0}, "en-zh": {"ter": 1.0}},
        "signatures": {"ter": {"en-de": "asian:no", "en-zh": "asian:yes"}},
    }
    record = Record(Path("x"), "x.score", "k", "score", {}, result, {}, {}, NEVER, 0.0)
    found = ScoredCheckpoint("x", None, "test", "test", record, None)
    rows = {
        name: [{"source": "s" * n, "scores": {"ter": value}} for n in range(8)]
        for name, value in (("en-de", 10.0), ("en-zh", 90.0))
    }
    found.__dict__["segments"] = rows
    report = scores_by_length([System("x", "test", seeds=[dict.fromkeys(rows, found)])])
    assert [(one.signature, one.rows[0][1]) for one in report] == [("asian:no", [10.0] * 4), ("asian:yes", [90.0] * 4)]


def test_languages_that_came_out(report: Report) -> None:
    matrix = next(matrix for matrix in report.confusions if matrix.system == "arpo")
    assert matrix.languages == ["de", "en", "zh", "fr"]
    assert dict(matrix.rows)["zh"] == [0.0, 0.0, 90.0, 10.0], "of those that can be told"


def evaluation(score: float, seed: int, **rates: float) -> ScoredCheckpoint:
    result = {"directions": {"en-de": {"chrf++": score, **rates}}, "signatures": {"chrf++": "s"}}
    record = Record(Path(f"x-{seed}"), "x.score", f"{seed}-{score}", "score", {}, result, {}, {}, NEVER, 0.0)
    return ScoredCheckpoint("x", None, "test", "test", record, None)


def seeded(name: str, parent: str, scores: list[float]) -> System:
    return System(name, "test", baseline=parent, seeds=[{"en-de": evaluation(score, i)} for i, score in enumerate(scores)])


def test_seeds_give_mean_deviation_and_a_test_across_them(tmp_path: Path) -> None:
    one, other = [50.0, 51.0, 52.5], [55.0, 54.0, 56.5]
    board = build_boards([seeded("a", "", one), seeded("b", "a", other)], PairedTests(tmp_path / "memory"))[0]
    mean, row = (board.rows[place].cells[1] for place in (0, 1))
    assert row and mean and row.value == mean.value == pytest.approx(statistics.fmean(other))
    assert row.spread == mean.spread == pytest.approx(statistics.stdev(other)) and row.seeds == 3
    assert row.p == pytest.approx(stats.ttest_ind(other, one, equal_var=False).pvalue) and row.verdict == "better"


def test_seeds_against_one_checkpoint_that_they_share() -> None:
    found = seed_test([55.0, 54.0, 56.5], [50.0])
    assert found and found.p == pytest.approx(stats.ttest_1samp([55.0, 54.0, 56.5], 50.0).pvalue) and found.wins is None
    assert seed_test([55.0], [50.0, 51.0]) is None, "one seed says nothing of seeds"
    assert seed_test([55.0, 55.0], [55.0, 55.0]) is None, "no deviation, no test"


def test_equal_outputs_are_a_tie(report: Report, tmp_path: Path) -> None:
    """Though sacrebleu's p-value for them is the smallest there is."""
    cpo = next(system for system in report.systems if system.name == "cpo")
    twin = System("twin", cpo.test, baseline="cpo", seeds=cpo.seeds)
    board = build_boards([cpo, twin], PairedTests(tmp_path / "memory"))[0]
    cell = board.rows[-1].cells[1]
    assert cell and cell.delta == 0.0 and cell.p is not None and cell.p < 0.05 and cell.verdict == "tie"


def test_nothing_is_tested_where_the_segments_are_not_the_same(report: Report, tmp_path: Path) -> None:
    board = build_boards([seeded("a", "", [50.0]), seeded("b", "a", [55.0])], PairedTests(tmp_path / "memory"))[0]
    cell = board.rows[-1].cells[1]
    assert cell and cell.delta == 5.0 and cell.p is None and cell.verdict == ""


def test_what_was_computed_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("chrf++", "nw:2", ["a b", "c d"], ["a c", "c d"], ["a b", "c d"])
    tests = PairedTests(tmp_path / "deep" / "memory.json")
    first = tests.p_value(*asked)
    tests.save()
    monkeypatch.setattr(significance, "sacrebleu_p_value", None)
    assert PairedTests(tmp_path / "deep" / "memory.json").p_value(*asked) == first
    with pytest.raises(TypeError):
        PairedTests(tmp_path / "deep" / "memory.json", "randomisation").p_value(*asked)
    with pytest.raises(TypeError):
        PairedTests(tmp_path / "deep" / "memory.json").p_value("bleu", *asked[1:])


def test_guards_name_the_worst_direction_beyond_a_bound(report: Report) -> None:
    names, found = guard_rates(report.systems)
    assert names == ["exact", "empty", "copy", "length_ratio"]
    for _, values in found:
        copied = values[names.index("copy")]
        assert copied and copied.value == 25.0 / 4 and copied.worst == "en→de 25"
        assert [value.worst for value in values if value and value is not copied] == ["", "", ""]


def test_there_are_as_many_segments_as_were_written(report: Report) -> None:
    assert {len(rows) for rows in report.systems[0].seeds[0]["en-de"].segments.values()} == {SEGMENTS}


def test_a_metric_without_a_meaning_has_no_cell_and_a_reason(tmp_path: Path) -> None:
    """TER into Thai: in no board, no mean, and named below tables, cards and comparisons."""
    why = "Thai is written without spaces, and TER has no words to count there"
    result = {
        "directions": {"en-th": {"chrf++": 50.0}, "en-de": {"chrf++": 60.0, "ter": 40.0}},
        "averages": {"en-xx": {"chrf++": 55.0, "ter": None}},
        "signatures": {"chrf++": {"en-th": "nw:2", "en-de": "nw:2"}, "ter": {"en-de": "case:lc"}},
        "lower_is_better": ["ter"],
        "unscored": {"ter": {"en-th": why}},
    }
    scores = replace(evaluation(0.0, 0).scores, result=result)
    scored = replace(evaluation(0.0, 0), scores=scores)
    system = System("a", "test", seeds=[{"en-th": scored, "en-de": scored}])
    boards = {
        board.metric: [row.name for row in board.rows] for board in build_boards([system], PairedTests(tmp_path / "memory"))
    }
    assert boards == {"chrf++": ["en→xx", "en-th", "en-de"], "ter": ["en→xx", "en-de"]}
    note = f"TER is not scored for en→th: {why}"
    assert unscored_notes(system.evaluations) == unscored_notes(system.evaluations, "ter") == [note]
    assert unscored_notes(system.evaluations, "chrf++") == []
    table = score_table(scored)
    assert table.rows == [["en→th", "50.0", "–"], ["en→de", "60.0", "40.0"], ["mean en→xx", "55.0", "–"]]
    assert note in table.signatures and table.without_mean
