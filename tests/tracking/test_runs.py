"""The report in MLflow, and runs that MLflow remembers as sides of a comparison: a real database each time."""

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.cli import compare
from alma_pipeline.plan.plan import Plan, to_json
from alma_pipeline.report.sides import Side, find_side
from alma_pipeline.schema import Tracking
from alma_pipeline.store.store import Store
from alma_pipeline.tracking import Tracker, runs, tracking_uri
from helpers.finished_store import finish
from helpers.tracking import invocation, one_run

STEPS = [{"node": "cpo", "kind": "cpo", "key": "f" * 64, "inputs": {}, "settings": {"beta": 0.1}}]
REQUESTS = ("stage=cpo", "stage=cpo stages.cpo.beta=0.2")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store, and the id of a node's run in its database; the invocation is a job of a sweep."""
    root = tmp_path_factory.mktemp("tracked")
    tracker = Tracker(
        root, Tracking(name="t", system_metrics=False), invocation("cpo-one", plan={"steps": STEPS}, sweep="s1", job=0)
    )
    one_run(tracker, root / "work" / "cpo")
    run = tracker.run_id("cpo", within=60)
    tracker.close(limit=120)
    return root, run


def test_a_report_lies_with_the_invocation_it_is_about(tracked: tuple[Path, str], tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    root, node = tracked
    (tmp_path / "page.html").write_text("<p>page</p>")
    said = runs.log_report(root, "alma", node, tmp_path / "page.html")
    client = MlflowClient(tracking_uri=tracking_uri(root))
    outer = client.get_run(node).data.tags["mlflow.parentRunId"]
    assert said == f"in MLflow: run {outer}, report/page.html"
    assert Path(client.download_artifacts(outer, "report/page.html")).read_text() == "<p>page</p>"


def test_a_run_that_is_gone_and_a_server_that_is_not_there(
    tracked: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("page")
    assert runs.log_report(tracked[0], "alma", "0" * 32, tmp_path / "page.html").startswith("not in MLflow: run 000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert runs.log_report(tracked[0], "alma", tracked[1], tmp_path / "page.html").startswith("not in MLflow: ")


def test_runs_are_found_by_name_id_and_sweep(tracked: tuple[Path, str]) -> None:
    from mlflow.tracking import MlflowClient

    root, node = tracked
    outer = MlflowClient(tracking_uri=tracking_uri(root)).get_run(node).data.tags["mlflow.parentRunId"]
    for text in ("cpo-one", outer, "s1"):
        assert runs.invocation_plans(root, text) == [STEPS], text
    assert runs.invocation_plans(root, "cpo-two") == []


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store of three recipes, two of them jobs of the sweep s2, and the id of each one's run in its database."""
    store = Store(tmp_path_factory.mktemp("remembered") / "store")
    ids = {
        "one": _track(store.root, "one", finish(store, "stage=cpo"), sweep="s2", job=0),
        "two": _track(store.root, "two", finish(store, "stage=cpo", "seed=43"), sweep="s2", job=1),
        "beta": _track(store.root, "beta", finish(store, "stage=cpo", "stages.cpo.beta=0.2")),
    }
    return store.root, ids


def _track(root: Path, name: str, plan: Plan, **sweep: Any) -> str:
    from mlflow.tracking import MlflowClient

    settings = Tracking(name="t", system_metrics=False)
    tracker = Tracker(root, settings, invocation(name, plan=to_json(plan), **sweep))
    one_run(tracker, root / "work" / name)
    node = MlflowClient(tracking_uri=tracking_uri(root)).get_run(tracker.run_id("cpo", within=60))
    return str(node.data.tags["mlflow.parentRunId"])


def _scores(side: Side) -> list[float]:
    """Of cpo into German, for each seed."""
    system = next(system for system in side.systems if system.name == "cpo")
    return [score for seed in system.seeds if (score := seed["en-de"].score("en-de", "chrf++")) is not None]


def _lines(root: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[list[str]], list[list[float]]]:
    """All that `compare` prints, in words, and the numbers of its rows about translation into German."""
    assert compare.compare(root, names) == 0
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line[1:] for line in found if line[:1] == ["en→de"]]
    return found, [[float(number) for number in re.findall(r"\d+\.\d", " ".join(row))] for row in rows]


def test_two_runs_are_compared_by_what_they_left_in_the_store(
    remembered: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, ids = remembered
    found, rows = _lines(root, [ids["one"], ids["beta"]], capsys)
    assert ["cpo.beta", "0.1", "0.2"] in found and not any("parallel" in line for line in found)
    theirs, ours = (_scores(find_side(root, f"{words} data.languages=[de,zh] tracking=none")) for words in REQUESTS)
    assert _scores(find_side(root, ids["one"])) == theirs and _scores(find_side(root, "beta")) == ours
    assert rows[0][:2] == pytest.approx([*theirs, *ours], abs=0.05)


def test_a_sweep_is_a_side_of_all_its_jobs(remembered: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    root, ids = remembered
    sweep, beta = _scores(find_side(root, "s2")), _scores(find_side(root, "beta"))
    assert len(sweep) == 2 and sorted(sweep) == sorted(_scores(find_side(root, "one")) + _scores(find_side(root, "two")))
    _, rows = _lines(root, ["s2", ids["beta"]], capsys)
    told = pytest.approx([statistics.mean(sweep), statistics.stdev(sweep), *beta], abs=0.051)
    assert any(row[:3] == told for row in rows), "mean and deviation over the jobs, beside the one run"
