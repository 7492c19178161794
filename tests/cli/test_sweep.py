"""A sweep for real: two seeds, half of the jobs bound to fail, and the same again with nothing to train."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

JOB = [
    *("stage=mono", "budget.mono.steps=4", "budget.text.documents=60", "budget.text.dev=6", "hardware.micro_batch_tokens=512"),
    *("evaluation=paper", "evaluation.checkpoints=[]", "tracking.system_metrics=false"),
]
SOUND, BROKEN = "stages.mono.learning_rate=0.001", "stages.mono.learning_rate=1e+30"
Swept = tuple[Path, subprocess.CompletedProcess[str]]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(folder / "store"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "alma_pipeline", *words]
    # The configuration writes multirun/ into the current folder.
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Four jobs: for each seed one that trains and one whose loss becomes no number."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(folder, "-m", *JOB, "seed=1,2", f"{SOUND},1e30")


def table(output: str) -> dict[str, str]:
    """The status of each job by its overrides, from the table at the end."""
    rows = output.rpartition("\nsweep")[2].splitlines()[2:]
    found = {}
    for row in rows:
        if row[:1].isdigit():
            words = row.split()
            settings = [word for word in words[1:] if "=" in word]
            found[" ".join(word for word in settings if word.startswith(("seed", "stages.mono")))] = row
    return found


def test_a_failing_job_does_not_stop_the_others_and_the_exit_code_tells(swept: Swept) -> None:
    """B24: each job's end is in one table, failures with their reason."""
    _, done = swept
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    rows = table(done.stdout)
    assert len(rows) == 4
    for seed in (1, 2):
        assert " done" in rows[f"seed={seed} {SOUND}"]
        assert "failed: mono: its worker ended with exit code 1" in rows[f"seed={seed} {BROKEN}"]
    assert "Traceback (most recent call last)" not in done.stderr


def test_what_jobs_share_is_made_once(swept: Swept) -> None:
    """For each seed two jobs want the same base and the same text."""
    folder, _ = swept
    made = [path.name.rpartition("-")[0] for path in (folder / "store" / "artifacts").iterdir()]
    assert sorted(made) == ["base"] * 2 + ["mono"] * 2 + ["mono_corpus"] * 2


def test_one_run_stands_above_the_jobs(swept: Swept) -> None:
    from mlflow.tracking import MlflowClient

    folder, _ = swept
    client = MlflowClient(f"sqlite:///{folder}/store/mlflow.db")
    experiment = client.get_experiment_by_name("alma")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    [above] = [found for found in runs if found.data.tags.get("alma.level") == "sweep"]
    jobs = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == above.info.run_id]
    states = {(found.data.tags["alma.job_num"], found.info.status) for found in jobs}
    assert states == {(str(number), "FAILED" if number % 2 else "FINISHED") for number in range(4)}
    assert above.info.status == "FAILED"
    nodes = [found for found in runs if found.data.tags.get("alma.stage") == "mono" and "alma.key" in found.data.tags]
    assert {found.data.tags["mlflow.parentRunId"] for found in nodes} == {found.info.run_id for found in jobs}


def test_the_same_again_trains_nothing(swept: Swept) -> None:
    """B23."""
    folder, _ = swept
    before = state(folder)
    done = run(folder, "-m", *JOB, "seed=1,2", SOUND)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing to do: all 3 nodes exist") == 2
    assert [row.count(" done") for row in table(done.stdout).values()] == [1, 1]
    assert state(folder) == before


def test_a_plan_of_a_sweep_writes_nothing(swept: Swept) -> None:
    folder, _ = swept
    before = sorted(folder.rglob("*"))
    done = run(folder, "plan", "-m", "--json", *JOB, "seed=1,3", SOUND)
    plans: list[dict[str, Any]] = json.loads(done.stdout)
    verdicts = [{step["node"]: step["verdict"] for step in plan["steps"]} for plan in plans]
    assert [set(found.values()) for found in verdicts] == [{"reuse"}, {"run"}]
    assert sorted(folder.rglob("*")) == before


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
