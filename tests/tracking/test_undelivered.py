"""What MLflow could not take is kept, counted, and delivered by whichever invocation comes next."""

import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from alma_pipeline.cli import doctor, main
from alma_pipeline.schema import Tracking
from alma_pipeline.store.store import Store
from alma_pipeline.tracking import Tracker, database, outbox, tracking_uri, undelivered
from alma_pipeline.tracking import tracker as tracker_module
from alma_pipeline.tracking.repair import process_tags
from alma_pipeline.tracking.tracker import deliver_waiting
from alma_pipeline.tracking.undelivered import keep, kept, waiting_lines
from helpers.finished_store import finish
from helpers.tracking import copy_database, free_port, invocation, line, one_run, runs, start_node, warnings

SETTINGS = Tracking(name="t", system_metrics=False)


@pytest.fixture
def away(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose MLflow is away: its database cannot be opened, and comes back with `back`."""
    store = tmp_path / "store"
    copy_database(root, store)
    (store / "mlflow.db").rename(tmp_path / "mlflow.db")
    (store / "mlflow.db").mkdir()
    monkeypatch.setattr(outbox, "RETRY_DELAYS", (0.1,))
    return store


def back(store: Path) -> None:
    (store / "mlflow.db").rmdir()
    (store.parent / "mlflow.db").rename(store / "mlflow.db")


def found(store: Path, experiment: str = "alma") -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=database.own_uri(store))
    return runs(client, Tracking(name="t", experiment=experiment))


def invoked(store: Path, experiment: str = "alma", note: str = "") -> None:
    """An invocation of one node that reads its metrics again at the end."""
    tracker = Tracker(store, Tracking(name="t", experiment=experiment, system_metrics=False), invocation())
    work = store / "work" / "cpo"
    start_node(tracker, work, settings={"note": note})
    (work / "metrics.jsonl").write_text("".join(json.dumps(line(step, 1.0)) + "\n" for step in (1, 2)))
    tracker.node_ended("cpo", "FINISHED", {"steps": 2}, work / "log.txt", [])
    tracker.finished("FINISHED", {})
    tracker.close(limit=10)


def test_an_invocation_with_nothing_to_run_delivers(away: Path, caplog: pytest.LogCaptureFixture) -> None:
    invoked(away)
    assert "MLflow at sqlite:////" in warnings(caplog)[0]
    back(away)
    [text] = waiting_lines(away)
    assert text.startswith("6 records wait for MLflow at sqlite:////") and text.endswith(
        "/store/mlflow.db; the next run that reaches it delivers them"
    )
    deliver_waiting(away, Tracking(name="none", enabled=False))
    assert waiting_lines(away) == [text], "tracking=none writes nothing"
    deliver_waiting(away, SETTINGS)
    assert waiting_lines(away) == [] and list((away / "tracking").glob("*.jsonl")) == []
    assert {name: run.info.status for name, run in found(away).items()} == {"cpo": "FINISHED", "cpo-tiny-01234567": "FINISHED"}


def test_what_waits_in_another_experiment_is_delivered_too(away: Path) -> None:
    invoked(away, "another")
    back(away)
    deliver_waiting(away, SETTINGS)
    assert found(away, "another")["cpo"].info.status == "FINISHED"


def test_a_moved_store_delivers_what_it_kept(away: Path, tmp_path: Path) -> None:
    """To its own database, with the files that moved along."""
    invoked(away)
    back(away)
    moved = away.rename(tmp_path / "moved")
    [text] = waiting_lines(moved)
    assert f"{moved}/mlflow.db" in text
    deliver_waiting(moved, SETTINGS)
    assert found(moved)["cpo"].info.status == "FINISHED"
    assert found(moved)["cpo"].data.metrics["train/loss"] == 1.0
    assert not away.exists()


def test_what_waits_for_another_server_is_named_and_kept(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of its address is written or shown."""
    uri = f"http://me:canary-77@127.0.0.1:{free_port()}"
    with monkeypatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", uri)
        patched.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patched.setenv("MLFLOW_TRACKING_PASSWORD", "canary-77")
        invoked(away, note="canary-77")
    back(away)
    deliver_waiting(away, SETTINGS)
    [text] = waiting_lines(away)
    assert text.startswith("6 records wait for MLflow at http://127.0.0.1:")
    assert not [path for path in away.rglob("*") if path.is_file() and b"canary-77" in path.read_bytes()]


def test_the_runs_of_a_killed_process_are_ended_by_an_invocation_with_nothing_to_run(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back(away)
    monkeypatch.setattr(outbox, "RETRY_DELAYS", (0.1,))
    sleeper = subprocess.Popen(["sleep", "100"])
    owner = process_tags() | {"alma.pid": str(sleeper.pid), "alma.pid_started": str(psutil.Process(sleeper.pid).create_time())}
    for module in (undelivered, tracker_module):
        monkeypatch.setattr(module, "process_tags", lambda: owner)
    tracker = Tracker(away, SETTINGS, invocation("dead"))
    start_node(tracker, tmp_path / "work", "mono")
    assert tracker.run_id("mono", within=100)
    assert kept(away) == [], "it runs"
    sleeper.kill()
    sleeper.wait()
    assert {run.info.status for run in found(away).values()} == {"RUNNING"}
    assert waiting_lines(away)[0].startswith("the runs of 1 killed invocations are to be ended for MLflow at sqlite")
    deliver_waiting(away, SETTINGS)
    assert {run.info.status for run in found(away).values()} == {"KILLED"}
    assert waiting_lines(away) == []


def test_a_damaged_file_is_named_and_holds_nothing_up(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "store"
    copy_database(root, store)
    (store / "tracking").mkdir()
    for name, text in (("a", ""), ("b", "{"), ("c", "[]\n"), ("d", '{"uri": 1}\n{}\n')):
        (store / "tracking" / f"{name}.jsonl").write_text(text)
    one_run(Tracker(store, SETTINGS, invocation()), tmp_path / "work")
    assert found(store)["cpo"].info.status == "FINISHED"
    assert len([text for text in warnings(caplog) if "is damaged" in text and "remove it" in text]) == 4


def test_a_refused_record_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reachable server that does not take one record gets all others, and the run does not stay RUNNING."""
    monkeypatch.setattr(undelivered, "MAX_TRIES", 1)
    store = tmp_path / "store"
    copy_database(root, store)
    common = {"time": 1_700_000_000.0, "node": "", "settings": {}, "paths": {}}
    events = [
        common | {"do": "begin", "name": "outer", "uid": "u1", "sweep": "", "tags": {}},
        common | {"do": "end", "status": "FAILED", "metrics": {}, "repeat_on": None, "tags": {"": "no name"}},
    ]
    keep(store / "tracking" / "x.jsonl", store, tracking_uri(store), "alma", {}, events)
    deliver_waiting(store, SETTINGS)
    first, text = warnings(caplog)
    assert first.startswith("tracking: delivering what earlier invocations kept for MLflow at sqlite:////")
    assert text.startswith("tracking: MLflow refused a kept record (end: Invalid value") and text.endswith("; it is dropped")
    assert found(store)["outer"].info.status == "FAILED"


def test_a_full_disk_loses_records_with_a_warning_and_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tracking").write_text("a file where the folder was to be")
    keep(tmp_path / "tracking" / "x.jsonl", tmp_path, "sqlite:///x", "alma", {}, [{"do": "end", "node": ""}])
    assert warnings(caplog)[0].startswith("tracking: 1 records for MLflow are lost: ")


def test_every_verb_says_what_waits_and_a_finished_request_delivers_it(
    away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(Store(away), "stage=cpo")
    invoked(away)
    back(away)
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(away))
    monkeypatch.chdir(away.parent)
    assert main._main(["show", "cpo"]) == 0
    assert capsys.readouterr().err.startswith("alma-pipeline: 6 records wait for MLflow at sqlite:////")
    assert main._main(["doctor"]) == 1
    assert "✗ 6 records wait for MLflow at sqlite:////" in capsys.readouterr().out
    assert main._main(["stage=cpo", "data.languages=[de,zh]"]) == 0
    shown = capsys.readouterr()
    assert f"MLflow: mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{away}/mlflow.db" in shown.out
    assert shown.err == "" and found(away)["cpo"].info.status == "FINISHED"
    assert list(doctor.tracking_problems(away)) == []
