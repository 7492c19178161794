"""Tracking into a real MLflow database: what a run holds, what a resumed one keeps, and that nothing leaks."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, recorder
from helpers.tracking import KEY, SCORES, Make, artifact, invocation, line, one_run, runs, script, start_node, warnings


def test_what_an_invocation_leaves(make: Make, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """B37: nested by tag, and what is needed to compare is on the parent as well."""
    tracker = make()
    (tmp_path / "log.txt").write_text("first line\nlast line\n")
    start_node(tracker, tmp_path, datasets=[("preferences", "d" * 32, "train")])
    tracker.metrics("cpo", [line(1, 2.0)])
    tracker.metrics("cpo", [line(2, 1.5)])
    tracker.node_ended("cpo", "FINISHED", {"steps": 2, "before": {"dev/loss": 3.0}}, tmp_path / "log.txt", [])
    tracker.finished("FINISHED", {"eval/avg/en-xx/chrf++": 60.5})
    tracker.close(limit=300)

    found = runs(client, settings)
    parent, child = found["cpo-tiny-01234567"], found["cpo"]
    assert {parent.info.status, child.info.status} == {"FINISHED"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.metrics == {"eval/avg/en-xx/chrf_pp": 60.5}
    expected = {"hardware.launcher": "local", "hardware.devices": "1", "hardware.nodes": "1"}
    expected |= {"stages.cpo.beta": "0.1", "stages.cpo.learning_rate": "0.0001", "stages.cpo.kind": "cpo"}
    assert parent.data.params == expected
    assert child.data.params == {"beta": "0.1"}
    assert child.data.metrics == {"train/loss": 1.5, "result/steps": 2.0, "result/before/dev/loss": 3.0}
    history = client.get_metric_history(child.info.run_id, "train/loss")
    assert [(point.step, point.timestamp) for point in history] == [(1, 1_700_000_001_000), (2, 1_700_000_002_000)]
    (dataset,) = child.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.tags[0].value) == ("preferences", "d" * 32, "train")
    assert artifact(child, "logs/cpo.log") == "first line\nlast line\n"
    assert "beta: 0.1" in artifact(parent, "config/resolved.yaml")
    assert "German" in artifact(parent, "config/resolved.yaml")
    assert json.loads(artifact(parent, "config/plan.json")) == [{"name": "cpo", "verdict": "run"}]
    assert "- stage=cpo" in artifact(parent, "config/overrides.yaml")
    assert "\nmlflow==" in artifact(parent, "env/pip-freeze.txt")
    tags = parent.data.tags
    git = {"commit": "c0ffee", "branch": "main", "dirty": "true", "repoURL": "https://h/r.git"}
    for name, value in {**{f"mlflow.source.git.{key}": git[key] for key in git}, "mlflow.user": "ada"}.items():
        assert tags[name] == value
        assert child.data.tags[name] == value
    assert tags["mlflow.source.type"] in ("LOCAL", "JOB")
    assert (tags["alma.stage"], tags["alma.status"], tags["alma.world_size"]) == ("cpo", "FINISHED", "1")
    assert (child.data.tags["alma.key"], child.data.tags["alma.parent_key"]) == (KEY, "f" * 64)
    assert (tmp_path / "mlflow_run").exists() is False or (tmp_path / "mlflow_run").read_text() == child.info.run_id


def test_nothing_is_made_or_imported_for_nothing(tmp_path: Path) -> None:
    """An invocation that runs nothing, and one with tracking off, leave no trace."""
    body = f"""
root = Path({str(tmp_path)!r})
idle = Tracker(root, Tracking(name="t"), invocation()); idle.finished("FINISHED", {{}}); idle.close()
one_run(Tracker(root, Tracking(name="t", enabled=False), invocation()), root / "work")
print([name for name in ("mlflow", "torch", "sqlalchemy") if name in sys.modules])
"""
    done = subprocess.run(script(body), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_resumed_node_goes_on_with_its_run(make: Make, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """B34, B35: the same run under the new parent; new parameters only, changed ones as a tag; a step is one point."""
    first = make(invocation("first"))
    start_node(first, tmp_path)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line(step, 1.0)) + "\n" for step in (1, 2, 3)) + '{"torn')
    run_id = first.run_id("cpo", within=60)
    first.metrics("cpo", [line(1, 1.0), line(2, 1.0)])
    first.finished("KILLED", {})
    first.close(limit=300)
    assert (tmp_path / "mlflow_run").read_text() == run_id
    assert {run.info.status for run in runs(client, settings).values()} == {"KILLED"}

    second = make(invocation("second"))
    start_node(second, tmp_path, settings={"beta": 0.2, "threads": 4})
    second.metrics("cpo", [line(step, 1.0, at=1_800_000_000.0) for step in (2, 3, 4)])
    second.node_ended("cpo", "FINISHED", {}, tmp_path / "log.txt", [])
    second.finished("FINISHED", {})
    second.close(limit=300)
    found = runs(client, settings)
    assert sorted(found) == ["cpo", "first", "second"], "no second run for the node"
    node = found["cpo"]
    assert node.info.run_id == run_id
    assert node.info.status == "FINISHED"
    assert node.data.tags["mlflow.parentRunId"] == found["second"].info.run_id
    assert node.data.params == {"beta": "0.1", "threads": "4"}
    assert json.loads(node.data.tags["alma.resume.1.overrides"]) == {"beta": "0.2"}
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3, 4]
    assert found["first"].info.status == "KILLED"


def test_a_resumed_node_whose_run_was_deleted_gets_a_new_one(make: Make, client: Any, settings: Tracking, tmp_path: Path) -> None:
    for deleted in ("0" * 32, "there"):
        if deleted == "there":
            deleted = runs(client, settings)["cpo"].info.run_id
            client.delete_run(deleted)
        (tmp_path / "mlflow_run").write_text(deleted)
        one_run(make(), tmp_path)
        assert runs(client, settings)["cpo"].info.run_id != deleted


def test_long_and_many_parameters(make: Make, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """B32, B33: more than one batch, and one value that is too long for any."""
    tracker = make()
    given = {f"p{number}": number for number in range(250)} | {"prompt": "ä" * 7000}
    start_node(tracker, tmp_path, settings=given)
    tracker.node_ended("cpo", "FINISHED", {}, tmp_path / "log.txt", [])
    tracker.finished("FINISHED", {})
    tracker.close(limit=300)
    node = runs(client, settings)["cpo"]
    assert len(node.data.params) == 251
    assert node.data.params["prompt"].startswith("sha256:")
    assert json.loads(artifact(node, "config/long_params.json")) == {"prompt": "ä" * 7000}


def test_evaluation_is_linked_to_its_checkpoint(make: Make, client: Any, settings: Tracking, tmp_path: Path) -> None:
    """B36: no stray sibling run; scores also stand on the checkpoint's run."""
    tracker = make()
    start_node(tracker, tmp_path / "a")
    tracker.node_ended("cpo", "FINISHED", {}, tmp_path / "log.txt", [])
    start_node(tracker, tmp_path / "b", "cpo.score", key="e" * 64, inputs={"hypotheses": "b" * 64}, checkpoint=KEY)
    tracker.node_ended("cpo.score", "FINISHED", SCORES, tmp_path / "log.txt", [])
    tracker.finished("FINISHED", {})
    tracker.close(limit=300)
    found = runs(client, settings)
    score, cpo = found["cpo.score"], found["cpo"]
    assert score.data.tags["alma.checkpoint_key"] == KEY
    assert score.data.tags["alma.checkpoint_run"] == cpo.info.run_id
    assert score.data.tags["mlflow.parentRunId"] == found["cpo-tiny-01234567"].info.run_id
    assert score.data.tags["alma.signature.bleu"] == "tok:13a"
    assert score.data.metrics["eval/de-en/chrf_pp"] == 70.5
    assert cpo.data.metrics == score.data.metrics


@pytest.mark.parametrize(
    ("artifacts", "expected"),
    [
        ("none", set()),
        ("light", {"record.json", "eval/scores.json", "logs/cpo.log"}),
        ("checkpoints", {"record.json", "eval/scores.json", "logs/cpo.log", "checkpoint/model.safetensors"}),
    ],
)
def test_one_switch_for_artifacts(
    make: Make, client: Any, settings: Tracking, tmp_path: Path, artifacts: str, expected: set[str]
) -> None:
    """B41."""
    for file in ("record.json", "scores.json", "log.txt", "model.safetensors"):
        (tmp_path / file).write_text("{}")
    tracker = make(tracking=Tracking(name="t", experiment=settings.experiment, artifacts=artifacts, system_metrics=False))
    start_node(tracker, tmp_path / "work")
    files = [tmp_path / file for file in ("record.json", "scores.json", "model.safetensors", "gone.json")]
    tracker.node_ended("cpo", "FINISHED", {"checkpoint": {"form": "full"}}, tmp_path / "log.txt", files)
    tracker.finished("FINISHED", {})
    tracker.close(limit=300)
    folder = Path(runs(client, settings)["cpo"].info.artifact_uri.removeprefix("file://").replace("%20", " "))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == expected


def test_a_failing_upload_only_warns(
    make: Make, root: Path, client: Any, settings: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B41: metrics and states arrive although no artifact can be written."""
    client.create_experiment(settings.experiment, artifact_location="file:///proc/nowhere")
    (tmp_path / "log.txt").write_text("text")
    one_run(make(), tmp_path)
    found = runs(client, settings)
    assert found["cpo"].info.status == found["cpo-tiny-01234567"].info.status == "FINISHED"
    assert found["cpo"].data.metrics["train/loss"] == 1.5
    assert len(warnings(caplog)) == 1
    assert "refused texts" in warnings(caplog)[0]


def test_a_deleted_experiment_is_named(
    make: Make, root: Path, client: Any, settings: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B39: never into another experiment instead; the records wait until the user has decided."""
    number = client.create_experiment(settings.experiment, artifact_location=root.as_uri())
    client.delete_experiment(number)
    one_run(make(), tmp_path)
    assert len(warnings(caplog)) == 1
    assert f"mlflow experiments restore -x {number}" in warnings(caplog)[0]
    client.restore_experiment(number)
    one_run(make(invocation("next")), tmp_path, node="mono")
    found = runs(client, settings)
    assert found["cpo"].info.status == found["next"].info.status == "FINISHED"
    assert found["cpo"].data.metrics["train/loss"] == 1.5


@pytest.mark.parametrize(("ending", "expected"), [("KILLED", "KILLED"), ("FAILED", "FAILED"), ("", "FAILED")])
def test_no_run_stays_open(make: Make, client: Any, settings: Tracking, tmp_path: Path, ending: str, expected: str) -> None:
    """B38: whatever way an invocation ends, its node ends with it."""
    tracker = make()
    start_node(tracker, tmp_path)
    if ending:
        tracker.finished(ending, {})
    tracker.close(limit=300)
    assert {run.info.status for run in runs(client, settings).values()} == {expected}


def sweep_job(make: Make, work: Path, job: int, status: str, sweep: str) -> Tracker:
    tracker = make(invocation(f"job {job}", sweep=sweep, job=job))
    start_node(tracker, work / str(job), f"cpo{job}")
    tracker.node_ended(f"cpo{job}", status, {}, work / "log.txt", [])
    tracker.finished(status, {})
    return tracker


def test_a_sweep_has_one_run_above_its_jobs(make: Make, client: Any, settings: Tracking, tmp_path: Path) -> None:
    together = [sweep_job(make, tmp_path, job, "FINISHED", "multirun/o'clock") for job in (0, 1)]
    for tracker in together:
        tracker.close(limit=300)
    sweep_job(make, tmp_path, 2, "FAILED", "another").close()
    found = runs(client, settings)
    above = {name: found[name].data.tags["mlflow.parentRunId"] for name in ("job 0", "job 1", "job 2")}
    assert above["job 0"] == above["job 1"] != above["job 2"]
    states = {run.info.run_id: run.info.status for run in found.values()}
    assert (states[above["job 0"]], states[above["job 2"]]) == ("FINISHED", "FAILED")
    assert found["job 1"].data.tags["alma.job_num"] == "1"
    assert len(found) == 8, "two sweeps, three jobs, three nodes"


def test_secrets_leave_nothing_behind(
    make: Make, root: Path, client: Any, settings: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B42: a canary in every place a user could put one is in no byte of the store."""
    canary = "canary-5c1d77"
    monkeypatch.setenv("HF_TOKEN", canary)
    config = invocation().config | {"model": {"repo": f"https://me:{canary}@host/x", "note": canary}}
    provenance = invocation().provenance | {"argv": ["--token", canary], "user": canary}
    given = invocation(f"run {canary}", config=config, provenance=provenance, overrides=[f"a={canary}"], plan=[canary])
    work, store = tmp_path / "work", tmp_path / "artifact"
    tracker = make(given)
    start_node(tracker, work, settings={"long": canary * 100, "short": canary}, datasets=[(canary, "1", "train")])
    store.mkdir()
    for file in ("log.txt", "record.json", "hypotheses.jsonl"):
        (store / file).write_text(f'{{"token": "{canary}", "url": "https://u:{canary}@h"}}\n')
    files = [store / "record.json", store / "hypotheses.jsonl"]
    tracker.node_ended("cpo", "FINISHED", {"signatures": {"x": canary}, **SCORES}, store / "log.txt", files)
    tracker.finished("FINISHED", {canary: 1.0})
    tracker.close(limit=300)
    assert "<redacted>" in artifact(runs(client, settings)["cpo"], "logs/cpo.log")
    assert len(runs(client, settings)) == 2
    spread = [path for path in root.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert spread == []


def test_system_metrics_of_a_node(
    make: Make, client: Any, settings: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SAMPLING_SECONDS", 0.1)
    tracker = make(tracking=Tracking(name="t", experiment=settings.experiment))
    start_node(tracker, tmp_path)
    assert tracker.run_id("cpo", within=60)
    time.sleep(1)
    tracker.node_ended("cpo", "FINISHED", {}, tmp_path / "log.txt", [])
    tracker.finished("FINISHED", {})
    tracker.close(limit=300)
    metrics = runs(client, settings)["cpo"].data.metrics
    assert "system/cpu_utilization_percentage" in metrics
    assert not [thread for thread in threading.enumerate() if "SystemMetrics" in thread.name]
