"""Tracking to a real MLflow server, which is killed in the middle."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, outbox
from helpers.tracking import MlflowServer, invocation, line, runs, start_node, warnings

pytestmark = pytest.mark.slow
SETTINGS = Tracking(name="t", system_metrics=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(outbox, "RETRY_DELAYS", (0.5,))
    server.start()
    yield server
    server.kill()


def found_runs(server: MlflowServer) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    return runs(MlflowClient(tracking_uri=server.uri), SETTINGS)


def steps(server: MlflowServer, run: Any) -> list[int]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    return [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]


def end(tracker: Tracker, node: str, work: Path) -> None:
    (work / "log.txt").write_text("a log\n")
    tracker.node_ended(node, "FINISHED", {"steps": 4}, work / "log.txt", [])
    tracker.finished("FINISHED", {"eval/avg/en-xx/chrf++": 50.0})


def test_a_server_that_goes_away(server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on and ends in time; the next invocation delivers all the rest."""
    store, work = tmp_path / "store", tmp_path / "work"
    tracker = Tracker(store, SETTINGS, invocation("cut off"))
    start_node(tracker, work)
    tracker.metrics("cpo", [line(1, 2.0)])
    assert tracker.run_id("cpo", within=60)
    server.kill()
    began = time.monotonic()
    for step in (2, 3, 4):
        tracker.metrics("cpo", [line(step, 1.0)])
    end(tracker, "cpo", work)
    assert time.monotonic() - began < 1, "nothing waits for a server"
    tracker.close(limit=10)
    assert time.monotonic() - began < 15
    assert len(warnings(caplog)) == 1
    (kept,) = (store / "tracking").glob("*.jsonl")
    assert [json.loads(text)["do"] for text in kept.read_text().splitlines()[1:]][-1] == "end"

    server.start()
    following = Tracker(store, SETTINGS, invocation("following"))
    start_node(following, tmp_path / "next", "mono")
    end(following, "mono", tmp_path / "next")
    following.close(limit=60)
    found = found_runs(server)
    assert sorted(found) == ["cpo", "cut off", "following", "mono"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert steps(server, found["cpo"]) == [1, 2, 3, 4]
    assert found["cpo"].data.metrics["result/steps"] == 4
    assert found["cut off"].data.metrics == {"eval/avg/en-xx/chrf_pp": 50.0}
    assert found["cpo"].info.end_time < found["following"].info.start_time, "when it ended, not when it was delivered"
    assert list((store / "tracking").glob("*.jsonl")) == []


def test_a_server_that_comes_back(server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same invocation delivers what it held back; one warning for the whole outage."""
    tracker = Tracker(tmp_path / "store", SETTINGS, invocation())
    start_node(tracker, tmp_path / "work")
    assert tracker.run_id("cpo", within=60)
    server.kill()
    for step in (1, 2, 3):
        tracker.metrics("cpo", [line(step, 1.0)])
        time.sleep(1)
    server.start()
    tracker.metrics("cpo", [line(4, 1.0)])
    end(tracker, "cpo", tmp_path / "work")
    tracker.close(limit=60)
    found = found_runs(server)
    assert steps(server, found["cpo"]) == [1, 2, 3, 4]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert len(warnings(caplog)) == 1
    assert list((tmp_path / "store" / "tracking").glob("*.jsonl")) == []


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody ever listened: one warning, an end in time, everything kept."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", MlflowServer(tmp_path / "none").uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    tracker = Tracker(tmp_path / "store", SETTINGS, invocation())
    start_node(tracker, tmp_path / "work")
    end(tracker, "cpo", tmp_path / "work")
    began = time.monotonic()
    tracker.close(limit=15)
    assert time.monotonic() - began < 20
    assert len(warnings(caplog)) == 1
    (kept,) = (tmp_path / "store" / "tracking").glob("*.jsonl")
    told = [json.loads(text)["do"] for text in kept.read_text().splitlines()[1:]]
    assert told[0] == "begin"
    assert told.count("end") == 2, "of the node and of the invocation"
