"""Where tracking writes: the database that is made once, its models, addresses that cannot work, runs of dead processes."""

import json
import os
import shlex
import sqlite3
import subprocess
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, check_uri, replay, tracking_uri
from alma_pipeline.tracking.database import share
from alma_pipeline.tracking.recorder import Recorder
from alma_pipeline.tracking.server import connect
from helpers.tracking import KEY, SCORES, Make, invocation, line, one_run, runs, script, start_node


def test_the_database_lets_readers_in_while_runs_write(root: Path, make: Make, tmp_path: Path) -> None:
    """B31."""
    one_run(make(), tmp_path)
    with sqlite3.connect(root / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("uri", ["file:///data/mlruns", "./mlruns", "/data/mlruns", "mlruns", "file:mlruns"])
def test_a_file_store_is_refused_early(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """B40: with the way out, and the flag for those who insist."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"migrate-filestore --source .*mlruns .*MLFLOW_ALLOW_FILE_STORE"):
        check_uri(Path("store"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_uri(Path("store"))


@pytest.mark.parametrize("uri", ["it's my/mlruns", "file:///it%27s%20my/mlruns"])
def test_the_command_that_migrates_a_folder_can_be_pasted(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as caught:
        check_uri(Path("store"))
    words = shlex.split(str(caught.value).split("`")[1])
    assert words[:3] == ["mlflow", "migrate-filestore", "--source"]
    assert words[3].lstrip("/") == "it's my/mlruns" and words[4:] == ["--target", "sqlite:////home/me/mlflow.db"]


def test_the_command_in_the_description_of_a_run_can_be_pasted() -> None:
    overrides = ["stage=cpo", "data.test.path=/a b/it's.tsv", "evaluation.comet.models=[a,b]"]
    tags = invocation(overrides=overrides).tags()
    assert shlex.split(tags["mlflow.note.content"].strip("`")) == ["alma-pipeline", *overrides]
    assert shlex.split(tags["alma.overrides"]) == overrides


@pytest.mark.parametrize("uri", ["", "http://h:5000", "https://u:p@h/x", "sqlite:////a/b.db", "databricks", "postgresql://h/d"])
def test_other_addresses_pass(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check_uri(Path("store"))


def test_a_checkpoint_is_a_model_with_lineage_and_scores(
    root: Path, make: Make, client: Any, settings: Tracking, tmp_path: Path
) -> None:
    """Only of a node that ended well and made one, and once, also when its event is applied again."""
    tracker, log = make(), tmp_path / "log.txt"
    start_node(tracker, tmp_path, "g1.cpo")
    tracker.node_ended("g1.cpo", "FINISHED", {"checkpoint": {"form": "full"}}, log, [])
    start_node(tracker, tmp_path / "b", "broken", key="b" * 64)
    tracker.node_ended("broken", "FAILED", {"checkpoint": {"form": "full"}}, log, [])
    start_node(tracker, tmp_path / "s", "g1.cpo.score", key="5" * 64, checkpoint=KEY)
    tracker.node_ended("g1.cpo.score", "FINISHED", SCORES, log, [])
    tracker.close(limit=300)
    maker = runs(client, settings)["g1.cpo"].info
    [model] = client.search_logged_models([maker.experiment_id])
    assert (model.name, model.model_type, model.source_run_id, str(model.status)) == ("g1_cpo", "cpo", maker.run_id, "READY")
    assert model.params == {"beta": "0.1"}
    assert {name: value for name, value in model.tags.items() if name.startswith("alma.")} == {
        "alma.node": "g1.cpo", "alma.key": KEY, "alma.parent_key": "f" * 64, "alma.input.init": "f" * 64
    }  # fmt: skip
    assert {metric.key: metric.value for metric in model.metrics}["eval/de-en/chrf_pp"] == 70.5
    [output] = client.get_run(maker.run_id).outputs.model_outputs
    assert output.model_id == model.model_id
    recorder = Recorder(connect(root, tracking_uri(root), settings.experiment), {"g1.cpo": maker.run_id}, False)
    recorder.apply({"do": "model", "node": "g1.cpo", "again": True})
    assert len(client.search_logged_models([maker.experiment_id])) == 1


@pytest.mark.slow
def test_runs_of_a_killed_process_are_set_right(make: Make, root: Path, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """B38: after a real kill -9 the next invocation says KILLED, and leaves those of living processes alone."""
    body = f"""
settings = Tracking(name="t", experiment={settings.experiment!r}, system_metrics=False)
tracker = Tracker(Path({str(root)!r}), settings, invocation("dead"))
start_node(tracker, Path({str(tmp_path)!r}), "mono")
tracker.run_id("mono", within=100)
os.kill(os.getpid(), signal.SIGKILL)
"""
    living = make(invocation("living"))
    start_node(living, tmp_path / "living", "parallel")
    assert living.run_id("parallel", within=60)
    assert subprocess.run(script(body), check=False).returncode == -9
    before = {name: run.info.status for name, run in runs(client, settings).items()}
    assert before == dict.fromkeys(("dead", "mono", "living", "parallel"), "RUNNING")
    one_run(make(invocation("next")), tmp_path / "next")
    after = {name: run.info.status for name, run in runs(client, settings).items()}
    expected = {"dead": "KILLED", "mono": "KILLED", "living": "RUNNING", "parallel": "RUNNING"}
    assert after == expected | {"next": "FINISHED", "cpo": "FINISHED"}
    assert runs(client, settings)["mono"].data.tags["alma.status"] == "KILLED"
    living.finished("FINISHED", {})
    living.close(limit=300)


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_database(tmp_path: Path) -> None:
    """Half a schema under the final name would be refused for ever ("duplicate column name")."""
    root = tmp_path / "store"
    body = f"""
tracker = Tracker(Path({str(root)!r}), Tracking(name="t", system_metrics=False), invocation())
start_node(tracker, Path({str(tmp_path)!r}) / "work")
tracker.run_id("cpo", within=100)
"""
    process = subprocess.Popen(script(body))
    draft = root / "mlflow.db.new" / "draft.db"
    while not (draft.exists() and draft.stat().st_size > 50_000):
        assert process.poll() is None, "it was to be killed in the middle"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (root / "mlflow.db").exists()
    one_run(Tracker(root, Tracking(name="t", system_metrics=False), invocation()), tmp_path / "work")
    with sqlite3.connect(root / "mlflow.db") as database:
        assert dict(database.execute("SELECT name, status FROM runs").fetchall())["cpo"] == "FINISHED"
    assert not draft.parent.exists()


@pytest.mark.slow
def test_processes_that_make_the_database_at_once(tmp_path: Path) -> None:
    """B31, B39: one database, one experiment, both runs, no word on stderr."""
    body = f"""
settings = Tracking(name="t", system_metrics=False)
tracker = Tracker(Path({str(tmp_path / "store")!r}), settings, invocation(sys.argv[1], sweep="s", job=1))
start_node(tracker, Path({str(tmp_path)!r}) / sys.argv[1], sys.argv[1] + " node")
tracker.run_id(sys.argv[1] + " node", within=100)
tracker.node_ended(sys.argv[1] + " node", "FINISHED", {{}}, Path("log.txt"), [])
tracker.finished("FINISHED", {{}})
tracker.close(100)
"""
    started = [subprocess.Popen([*script(body), name], stderr=subprocess.PIPE, text=True) for name in ("one", "two")]
    assert [process.communicate(timeout=200)[1] for process in started] == ["", ""]
    with sqlite3.connect(tmp_path / "store" / "mlflow.db") as database:
        experiments = database.execute("SELECT name FROM experiments ORDER BY name").fetchall()
        found = dict(database.execute("SELECT name, status FROM runs").fetchall())
    assert experiments == [("Default",), ("alma",)]
    assert found == dict.fromkeys(("one", "two", "one node", "two node", "sweep cpo s"), "FINISHED")
    assert os.listdir(tmp_path / "store" / "mlartifacts")


def test_an_event_that_is_delivered_twice_makes_one_run(root: Path, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """After an outage nobody knows whether the last call arrived: the same events again change nothing."""
    server = connect(root, tracking_uri(root), settings.experiment)
    common = {"time": 1_700_000_000.0, "tags": {}, "settings": {"a": 1}, "paths": {}}
    events: list[dict[str, Any]] = [
        common | {"do": "begin", "node": "", "name": "outer", "uid": "u1", "sweep": "", "again": True},
        common
        | {"do": "node", "node": "cpo", "uid": "u2", "run": "", "datasets": [["d", "1", "train"]]}
        | {"evaluates": None, "again": True},
        {"do": "metrics", "node": "cpo", "lines": [line(1, 1.0)]},
        common | {"do": "end", "node": "cpo", "status": "FAILED", "metrics": {"x": 1.0}, "repeat_on": None},
    ]
    for _ in range(2):
        recorder = Recorder(server, {}, system_metrics=False)
        for event in events:
            recorder.apply(event)
    found = runs(client, settings)
    assert len(client.search_runs([server.experiment])) == len(found) == 2
    assert [point.step for point in client.get_metric_history(found["cpo"].info.run_id, "train/loss")] == [1]
    assert found["cpo"].info.end_time == 1_700_000_000_000
    assert len(found["cpo"].inputs.dataset_inputs) == 1


@pytest.mark.parametrize(("kind", "mode"), [("ext4", "wal"), ("nfs4", "delete"), ("fuse.sshfs", "delete")])
def test_a_network_disk_keeps_the_old_journal(kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's write-ahead log must not be on a network file system."""
    import psutil

    disk = namedtuple("disk", "mountpoint fstype")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [disk("/", "overlay"), disk(str(tmp_path), kind)])
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    share(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)


def test_metrics_can_be_replayed(make: Make, root: Path, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """All lines of the file are on the run afterwards, those it had only once."""
    one_run(make(), tmp_path)
    run_id = runs(client, settings)["cpo"].info.run_id
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line(step, loss)) + "\n" for step, loss in ((1, 2.0), (2, 1.5), (3, 1.0)))
    )
    for _ in range(2):
        assert replay(root, settings, tmp_path, run_id) == 3
    points = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.5), (3, 1.0)]
