"""The whole recipe for real, with budgets of a few steps: the command line, DeepSpeed, the store and MLflow together."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SMALL = [
    *("budget.text.documents=80", "budget.text.pairs=60", "budget.text.dev=6", "budget.text.test=5"),
    *(f"budget.{node}.steps=4" for node in ("mono", "parallel", "group_adapter", "group_pseudo_mono", "group_parallel")),
    *("budget.cpo.steps=3", "budget.arpo.steps=3", "evaluation.max_new_tokens=12"),
    *("budget.preferences.sources=16", "budget.preferences.held_out=6", "budget.preferences.candidates=2"),
    *("budget.group_preferences.sources=16", "budget.group_preferences.held_out=6", "budget.group_preferences.candidates=2"),
    "tracking.system_metrics=false",
]
PAIRS = ["stages.preferences.min_margin=0"]
ALL = [*SMALL, *PAIRS, "stages.group_preferences.min_margin=0"]


def run(store: Path, *words: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(store), "COLUMNS": "200"}
    command = [sys.executable, "-m", "alma_pipeline", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


def plan(store: Path, *words: str) -> dict[str, tuple[str, str]]:
    """Node to (verdict, reason)."""
    done = run(store, "plan", "--json", *words)
    assert done.returncode == 0, done.stderr
    return {step["node"]: (step["verdict"], step["reason"]) for step in json.loads(done.stdout)["steps"]}


def artifact(store: Path, name: str) -> Path:
    found = [path for path in (store / "artifacts").iterdir() if path.name.rpartition("-")[0] == name]
    assert len(found) == 1, found
    return found[0]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A store after the whole recipe has run once."""
    store = tmp_path_factory.mktemp("recipe") / "store"
    return store, run(store, *ALL)


def test_the_whole_recipe_runs_and_says_what_it_did(recipe: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, done = recipe
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for text in ("bits per byte", "chrF++", "preference accuracy", "parallel (from mono) against parallel_scratch", "mlflow ui"):
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
    assert verdicts["cpo"][1] == "because stages.cpo.beta 0.1 → 0.2"


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


def test_two_processes_and_zero_3_make_the_artifact_of_one(
    recipe: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Same key, and the same losses to 1e-4 relative; B6: the LoRA's tensors are whole."""
    store, _ = recipe
    words = [*SMALL, "stage=parallel", "evaluation=paper", "evaluation.checkpoints=[]", "stages.parallel.adapter=new"]
    assert plan(tmp_path, *words, "hardware=cpu2", "hardware.zero_stage=3").keys() == plan(tmp_path, *words).keys()
    losses, keys = [], []
    for hardware in (["hardware=cpu2", "hardware.zero_stage=3"], []):
        done = run(store, *words, *hardware, *(["--force", "parallel"] if losses else []))
        assert done.returncode == 0, done.stderr[-3000:]
        made = max(
            (path for path in (store / "artifacts").iterdir() if path.name.startswith("parallel-")),
            key=lambda path: path.stat().st_mtime_ns,
        )
        record = json.loads((made / "record.json").read_text())
        keys.append(record["key"])
        losses.append(record["result"]["after"]["loss"])
        assert (made / "adapter_model.safetensors").stat().st_size > 10_000
    assert keys[0] == keys[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("victim", ["worker", "orchestrator"])
def test_killed_anywhere_it_goes_on_and_ends_with_the_same_weights(victim: str, tmp_path: Path) -> None:
    """kill -9 at random moments, checkpoint writing included, then the same command at once (B8, B10)."""
    words = [*SMALL, "stage=mono", "budget.mono.steps=30", "evaluation=paper", "evaluation.checkpoints=[]", "tracking=none"]
    words.append("hardware.checkpoint_seconds=0.01")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole, *words).returncode == 0
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(broken)}
    seed = random.Random(victim)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-m", "alma_pipeline", *words], env=environment, stderr=subprocess.DEVNULL)
        metrics = next_metrics(broken, process)
        time.sleep(seed.uniform(0.0, 1.0))
        if victim == "orchestrator":
            process.kill()
        elif metrics:
            kill_worker(broken)
        process.wait(60)
    done = run(broken, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digest(artifact(whole, "mono") / "model.safetensors") == digest(artifact(broken, "mono") / "model.safetensors")


def next_metrics(store: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until mono has begun to train (again), or the command has ended."""
    before = 0
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        found = list((store / "work").glob("mono-*/metrics.jsonl")) if (store / "work").is_dir() else []
        size = found[0].stat().st_size if found else 0
        if before and size > before:
            return True
        before = size or before
        time.sleep(0.02)
    return False


def kill_worker(store: Path) -> None:
    """The process that holds mono's worker lock open."""
    locks = [str(path) for path in (store / "locks").glob("*.worker")]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            opened = [os.readlink(handle) for handle in (entry / "fd").iterdir()]
        except OSError:
            continue
        command = (entry / "cmdline").read_bytes()
        if b"forkserver" in command and any(name in locks for name in opened):
            os.kill(int(entry.name), signal.SIGKILL)
