"""Other systems' outputs in the report, and what else is told beside the scores: lengths, seen test data, where it stopped."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.instants import NEVER
from alma_pipeline.report import page, paper
from alma_pipeline.report.caveats import contamination_notes, early_stops, footnotes, mark_contaminated
from alma_pipeline.report.content import Report, build_report
from alma_pipeline.report.jobs import ReportJob, plan_job
from alma_pipeline.report.names import describe_test_set
from alma_pipeline.report.systems import systems
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.finished_store import SEGMENTS, composed, finish


@pytest.mark.parametrize(
    ("pairs", "held_out", "expected"),
    [
        ({"reader": "cldr", "repo": None}, 100, "CLDR, 100 sentences per direction"),
        ({"reader": "hub", "repo": "haoranxu/WMT22-Test"}, None, "haoranxu/WMT22-Test, all sentences"),
        ({"repo": "a/b", "revision": "0123456789", "split": "devtest"}, None, "a/b@0123456, devtest, all sentences"),
        ({"reader": "files", "repo": None}, 2000, "local files, 2,000 sentences per direction"),
        ({"reader": "files", "files": {"de-en.txt": "x", "en-de.txt": "y"}}, None, "local files (887fcea), all sentences"),
        ({}, None, "test_corpus, all sentences"),
    ],
)
def test_a_test_set_is_called_by_its_source_and_size(pairs: dict[str, Any], held_out: int | None, expected: str) -> None:
    payload = {"config": {"pairs": pairs, "held_out": held_out}}
    assert describe_test_set(Record(Path(), "test_corpus", "k", "corpus", payload, {}, {}, {}, NEVER, 0.0)) == expected


def test_given_outputs_are_scored_on_the_whole_set_and_a_recipe_on_its_budget() -> None:
    for words, held_out in (("stage=score", None), ("stage=score budget.text.test=7", 7), ("stage=cpo", 100)):
        assert composed("evaluation.outputs.x=out/x", *words.split()).stages["test_corpus"].held_out == held_out


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, tuple[str, ...]]:
    """A store with the scores of two systems' outputs, and of no model."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("good", "bad"):
        (folder / f"{name}.de-en").write_text(f"{name}\n")
    words = ("stage=score", *(f"evaluation.outputs.{name}='{folder}/{name}.{{direction}}'" for name in ("good", "bad")))
    store = Store(folder / "store")
    finish(store, *words)
    return Store(store.root), words


def test_systems_without_a_recipe_are_compared_with_the_first(given: tuple[Store, tuple[str, ...]]) -> None:
    store, words = given
    report = build_report([*words], [plan_job([*words], composed(*words), store)], store)
    compared = {system.name: (system.baseline, system.from_files) for system in report.systems}
    assert compared == {"good": ("", True), "bad": ("good", True)}
    row = next(row for row in report.boards[0].rows if row.name == "de-en")
    good, bad = row.cells
    assert good and bad and bad.delta == pytest.approx(bad.value - good.value) and bad.verdict == "worse" and bad.p is not None
    assert report.samples and {output.system for output in report.samples[0].outputs} == {"good", "bad"}
    html = page.render(report)
    assert report.title == "Outputs of other systems" and "No model of this recipe" in html and "<svg viewBox" not in html
    assert "against good" in html and "bad" in paper.markdown(report)
    assert "CLDR, all sentences" in html and "CLDR, all sentences" in paper.latex(report)


def test_beside_a_recipe_they_are_compared_with_its_target(job: ReportJob, tmp_path: Path) -> None:
    (tmp_path / "x.de-en").write_text("x\n")
    words = ("stage=cpo", f"evaluation.outputs.good='{tmp_path}/x.{{direction}}'")
    store = Store(tmp_path / "store")
    finish(store, *words)
    found = systems([plan_job([*words], composed(*words), Store(store.root))])
    assert {system.name: system.baseline for system in found if system.from_files} == {"good": "cpo"}
    assert next(system for system in found if system.from_files).comparison == "against cpo"


def test_scores_by_length_are_means_of_quarters(report: Report) -> None:
    table = next(table for table in report.lengths if table.metric == "quality")
    labels = [label for label, _ in table.rows]
    assert labels == [system.label for system in report.systems] and all(len(means) == 4 for _, means in table.rows)
    cpo = next(system for system in report.systems if system.name == "cpo")
    values = []
    for direction in cpo.directions:
        rows = sorted(cpo.seeds[0][direction].segments[direction], key=lambda row: len(row["source"]))
        values.append(sum(row["scores"]["quality"] for row in rows[: SEGMENTS // 4]) / (SEGMENTS // 4))
    assert dict(table.rows)["cpo"][0] == pytest.approx(sum(values) / len(values))


def test_language_confusion_by_group(report: Report) -> None:
    matrix = next(matrix for matrix in report.confusions if matrix.system == "cpo, group 1")
    assert dict(matrix.rows) == {"de": [90.0, 0.0, 10.0], "en": [0.0, 90.0, 10.0]} and matrix.languages == ["de", "en", "fr"]


def test_scores_on_data_that_was_trained_on_are_marked(job: ReportJob, report: Report) -> None:
    """The parallel text says that it holds the test's repository; what never read it bears no mark."""
    config = job.config
    test = replace(config.data.test, trained_on=["someone/test"])
    plan = replace(job.plan, steps=[_telling(step, "someone/test") for step in job.plan.steps])
    changed = replace(job, config=replace(config, data=replace(config.data, test=test)), plan=plan)
    found = mark_contaminated(systems([changed]), [changed])
    assert {system.name for system in found if system.contaminated_by} == {"parallel", "parallel_scratch", "cpo"}
    cpo = next(system for system in found if system.name == "cpo")
    assert len(contamination_notes(changed)) == 3 and not contamination_notes(job)
    assert cpo.label == "cpo †" and footnotes([cpo])[0].startswith("† cpo was trained on someone/test")
    assert not any(system.contaminated_by for system in report.systems)
    plain, changed = (replace(each, overrides=[words]) for each, words in ((job, "a=1"), (changed, "a=2")))
    variants = mark_contaminated([replace(cpo, variant=name) for name in ("a=1", "a=2", "")], [plain, changed])
    assert [bool(system.contaminated_by) for system in variants] == [False, True, True], "only those that were trained on it"
    latex = paper.latex(replace(report, boards=[replace(report.boards[0], systems=found)], notes=footnotes(found)))
    assert r"cpo \textdagger{}" in latex and "was trained on someone/test" in latex


def _telling(step, name: str):  # type: ignore[no-untyped-def]
    """The parallel corpus with a confession in its settings, and a test set of that name."""
    if step.node.name == "test_corpus":
        pairs = replace(step.node.config.pairs, trained_on=[name])
        return replace(step, node=replace(step.node, config=replace(step.node.config, pairs=pairs)))
    if step.node.name != "parallel_corpus":
        return step
    settings = step.payload["config"]
    return replace(step, payload=step.payload | {"config": settings | {"pairs": settings["pairs"] | {"trained_on": [name]}}})


def test_where_training_diverged_and_was_stopped(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan = finish(store, but="cpo")
    step = plan["cpo"]
    work = store.work_path("cpo", step.key)
    work.mkdir(parents=True)
    trace = "Traceback\n  ...\nalma_pipeline.ml.steplog.Diverged: the dev loss is 9 after step 4 of 20, above 4.5\n"
    for rank in (0, 1):
        (work / f"failed-{rank}.txt").write_text(trace)
    store = Store(store.root)
    job = plan_job([], composed(), store)
    assert early_stops([job], store) == ["cpo diverged and was stopped: the dev loss is 9 after step 4 of 20, above 4.5"]
    assert "diverged and was stopped" in re.sub(r"\s+", " ", page.render(build_report([], [job], store)))
