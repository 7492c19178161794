"""A report over seeds: every place that says how differences were tested names the test across seeds."""

import re

import pytest

from alma_pipeline.cli import compare
from alma_pipeline.report import page, paper
from alma_pipeline.report.content import build_report
from alma_pipeline.report.jobs import plan_jobs
from alma_pipeline.store.store import Store
from helpers.finished_store import finish

WORDS = ["stage=parallel", "data.languages=[de,zh]", "tracking=none"]
WELCH = "Welch's t-test across seeds for systems with several"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("seeds") / "store")
    for seed in (1, 2, 3):
        finish(store, "stage=parallel", f"seed={seed}")
    return Store(store.root)


def test_page_and_papers_name_the_test_across_seeds(seeded: Store) -> None:
    words = [*WORDS, "seed=1,2"]
    report = build_report(words, plan_jobs(words, seeded), seeded)
    assert report.seeds == 2
    assert report.method.startswith(WELCH)
    assert WELCH in paper.markdown(report)
    assert "Welch" in paper.latex(report)
    html = " ".join(re.sub(r"<[^>]+>", "", page.render(report)).replace("&#39;", "'").split())
    assert html.count(WELCH) == 2, "above the scores, and at the foot"


def test_a_seed_that_was_never_run_is_told_and_the_page_is_of_one_that_was(seeded: Store) -> None:
    words = [*WORDS, "seed=9,1"]
    report = build_report(words, plan_jobs(words, seeded), seeded)
    assert any("seed=9: no scores of parallel; not included" in note for note in report.notes)
    assert not any("seed=1:" in note for note in report.notes)
    assert report.command.startswith("-m ") and 0 < report.done < report.nodes
    assert any(box.status == "done" for box in report.graph.boxes)


def test_one_seed_is_resampled(seeded: Store) -> None:
    words = [*WORDS, "seed=1"]
    report = build_report(words, plan_jobs(words, seeded), seeded)
    assert report.method.startswith("paired bootstrap resampling")
    assert "Welch" not in paper.markdown(report) + page.render(report)


def test_compare_names_it_where_a_side_has_several(seeded: Store, capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(WORDS[1:])
    compare.compare(seeded.root, [f"stage=parallel seed=3 {words}", f"stage=parallel seed=1,2 {words}"], "")
    assert "Welch's t-test across seeds" in " ".join(capsys.readouterr().out.split())
    compare.compare(seeded.root, [f"stage=parallel seed=3 {words}", f"stage=parallel seed=1 {words}"], "")
    assert "Welch" not in capsys.readouterr().out
