"""The whole recipe for real, with budgets of a few steps: the command line, DeepSpeed, the store and MLflow together."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.browser import PHONE, started, visiting
from helpers.command import SMALL, artifact, digest, kill_worker, next_metrics, plan, run

pytestmark = pytest.mark.slow

PAIRS = ["stages.preferences.min_margin=0"]
MONO = [*SMALL, "stage=mono", "budget.mono.steps=50", "evaluation=paper", "evaluation.checkpoints=[]", "tracking=none"]
MONO.append("hardware.checkpoint_seconds=0.01")
ALL = [*SMALL, *PAIRS, "stages.group_preferences.min_margin=0"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A store after the whole recipe has run once."""
    store = tmp_path_factory.mktemp("recipe") / "store"
    return store, run(store, *ALL)


def test_the_whole_recipe_runs_and_says_what_it_did(recipe: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, done = recipe
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for text in (
        "bits per byte",
        "chrF++",
        "preference accuracy",
        "parallel (from mono) vs. parallel_scratch (from base)",
        "mlflow ui",
    ):
        assert text in done.stdout
    verdicts = plan(store, *ALL)
    assert len(verdicts) == 41
    assert {verdict for verdict, _ in verdicts.values()} == {"reuse"}
    assert not list((store / "work").iterdir()), "no work folder is left"


def test_a_second_call_has_nothing_to_do(recipe: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, _ = recipe
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    done = run(store, *ALL)
    assert done.returncode == 0 and "nothing to do" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}, "nothing is written"


def test_a_changed_beta_runs_cpo_and_its_evaluation_alone(recipe: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, _ = recipe
    verdicts = plan(store, *SMALL, *PAIRS, "stage=cpo", "stages.cpo.beta=0.2")
    running = {name for name, (verdict, _) in verdicts.items() if verdict != "reuse"}
    assert running == {"cpo", "cpo.translate", "cpo.score"}
    assert verdicts["cpo"][1] == "stages.cpo.beta 0.1 → 0.2"


def test_a_groups_override_runs_that_group_alone(recipe: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, _ = recipe
    verdicts = plan(store, *ALL, "groups.g5.arpo.beta=0.4")
    running = {name for name, (verdict, _) in verdicts.items() if verdict != "reuse"}
    assert running == {"g5.arpo", "g5.arpo.translate", "g5.arpo.score"}


def test_adapters_leave_the_base_alone_and_name_what_they_stand_on(
    recipe: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    store, _ = recipe
    mono = json.loads((artifact(store, "mono") / "record.json").read_text())
    assert mono["digests"]["model.safetensors"] == digest(artifact(store, "mono") / "model.safetensors")
    for name in ("g1.group_adapter", "g1.group_parallel", "g5.arpo"):
        record = json.loads((artifact(store, name) / "record.json").read_text())
        assert record["checkpoint"] == {"form": "adapter", "base_key": mono["key"], "adapter_keys": [record["key"]]}
        assert not (artifact(store, name) / "model.safetensors").exists()


def test_mlflow_has_a_run_for_every_node_with_its_curve_and_the_parents_scores(
    recipe: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    store, _ = recipe
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("alma")
    assert experiment is not None
    runs = {
        found.data.tags.get("alma.node", ""): found for found in client.search_runs([experiment.experiment_id], max_results=500)
    }
    assert len(runs) == 42, "the invocation and 41 nodes"
    assert {found.info.status for found in runs.values()} == {"FINISHED"}
    curve = client.get_metric_history(runs["mono"].info.run_id, "train/loss")
    assert [point.step for point in curve][-1] == 4
    assert "eval/avg/all/chrf_pp" in runs[""].data.metrics
    assert runs["mono"].data.tags["mlflow.parentRunId"] == runs[""].info.run_id


def test_its_report_opens_in_a_browser(recipe: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """No complaint, no request, no wider than a phone; tables sort."""
    store, _ = recipe
    file = tmp_path / "report.html"
    done = run(store, "report", *ALL, "--output", str(file))
    assert done.returncode == 0, done.stderr
    with started() as browser, visiting(browser, file) as visit:
        for width, theme in ((1280, "light"), (PHONE, "dark")):
            assert visit(width, theme).evaluate("document.documentElement.scrollWidth") == width
        page = visit()
        assert page.locator(".board").count() >= 2
        trained = [path for path in store.glob("artifacts/*/record.json") if "layout" in json.loads(path.read_text())["result"]]
        assert page.get_by_text("training, packed rows").count() == len(trained) > 10
        for table in (".board:visible", "table.cost", "table.guards"):
            head = page.locator(f"{table} thead th").nth(2)
            head.get_by_role("button").click()
            cells = page.locator(f"{table} tbody:last-child tr td:nth-child(3)").all()
            values = [float(cell.get_attribute("data-sort")) for cell in cells]
            assert len(values) > 3 and values == sorted(values, reverse=True), table


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a `mono` that was trained without a break."""
    store = tmp_path_factory.mktemp("whole")
    assert run(store, *MONO).returncode == 0
    return store


@pytest.mark.parametrize("victim", ["worker", "orchestrator"])
def test_killed_anywhere_it_goes_on_and_ends_with_the_same_weights(whole: Path, victim: str, tmp_path: Path) -> None:
    """kill -9 at random moments, checkpoint writing included, then the same command at once (B8, B10); and SIGTERM."""
    broken = tmp_path / "broken"
    for made in (artifact(whole, "base"), artifact(whole, "mono_corpus")):
        shutil.copytree(made, broken / "artifacts" / made.name)
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(broken)}
    seed = random.Random(victim)
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-m", "alma_pipeline", *MONO], env=environment, stderr=subprocess.DEVNULL)
        metrics = next_metrics(broken, process, "mono")
        if victim == "worker" or number == signal.SIGKILL:
            time.sleep(seed.uniform(0.0, 1.0))
        if victim == "orchestrator":
            process.send_signal(number)
        elif metrics:
            kill_worker(broken)
        code = process.wait(60)
        assert (victim, number) != ("orchestrator", signal.SIGTERM) or code == 143
    done = run(broken, *MONO)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digest(artifact(whole, "mono") / "model.safetensors") == digest(artifact(broken, "mono") / "model.safetensors")
