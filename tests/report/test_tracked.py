"""The report in MLflow, and runs that MLflow remembers as sides of a comparison: a real database each time."""

from pathlib import Path

import pytest
from tracking_help import invocation, one_run

from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, report, runs, tracking_uri

STEPS = [{"node": "cpo", "kind": "cpo", "key": "f" * 64, "inputs": {}, "settings": {"beta": 0.1}}]


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
    said = report.log(root, "alma", node, tmp_path / "page.html")
    client = MlflowClient(tracking_uri=tracking_uri(root))
    outer = client.get_run(node).data.tags["mlflow.parentRunId"]
    assert said == f"in MLflow: run {outer}, report/page.html"
    assert Path(client.download_artifacts(outer, "report/page.html")).read_text() == "<p>page</p>"


def test_a_run_that_is_gone_and_a_server_that_is_not_there(
    tracked: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("page")
    assert report.log(tracked[0], "alma", "0" * 32, tmp_path / "page.html").startswith("not in MLflow: run 000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert report.log(tracked[0], "alma", tracked[1], tmp_path / "page.html").startswith("not in MLflow: ")


def test_runs_are_found_by_name_id_and_sweep(tracked: tuple[Path, str]) -> None:
    from mlflow.tracking import MlflowClient

    root, node = tracked
    outer = MlflowClient(tracking_uri=tracking_uri(root)).get_run(node).data.tags["mlflow.parentRunId"]
    for text in ("cpo-one", outer, "s1"):
        assert runs.plans(root, text) == [STEPS], text
    assert runs.plans(root, "cpo-two") == []
