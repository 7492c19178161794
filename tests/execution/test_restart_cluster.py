"""Slurm itself, on this machine: training that outlasts its allocations, and a batch job that is queued again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ALTERED
from helpers.command import artifact, digest
from helpers.processes import wait_for
from helpers.slurm_cluster import Cluster, missing

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "there is a Slurm")]

STEPS, STEP_SECONDS = 6, "8"
"""More than is done before the notice, 20 to 50 s after the start of an allocation of a minute; on a busy machine a step each."""
TRAINING = [
    *("stage=mono", "tracking=none", "evaluation=paper", "evaluation.checkpoints=[]", "hardware.micro_batch_tokens=512"),
    *("budget.text.documents=60", "budget.text.dev=6", f"budget.mono.steps={STEPS}"),
]
TWO_NODES = ["hardware=slurm", "hardware.device=cpu", "hardware.devices=1", "hardware.threads=1", "hardware.decode_tokens=8192"]


def trained(cluster: Cluster, store: Path, step_seconds: str, limit: str) -> tuple[str, dict[str, Any]]:
    """What the command printed, and the record of its checkpoint."""
    environment = cluster.environment | {"ALMA_PIPELINE_STORE": str(store), "PYTHONPATH": ALTERED, "STEP_SECONDS": step_seconds}
    words = [sys.executable, "-m", "alma_pipeline", *TRAINING, *TWO_NODES, f"hardware.time_limit='{limit}'"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + cluster.logs()
    record: dict[str, Any] = json.loads((artifact(store, "mono") / "record.json").read_text())
    return done.stdout, record


def test_training_longer_than_its_allocations_ends_with_the_same_weights(cluster: Cluster, tmp_path: Path) -> None:
    _, calm = trained(cluster, tmp_path / "calm", "0", "10")
    printed, record = trained(cluster, tmp_path / "limited", STEP_SECONDS, "1")
    assert "mono: interrupted by a notice after step" in printed
    log = (artifact(tmp_path / "limited", "mono") / "log.txt").read_text()
    assert log.count("$ srun ") >= 2, "one allocation after the other"
    names = ("steps", "tokens", "labels", "before", "after", "evaluations", "chosen_step")
    assert {name: record["result"][name] for name in names} == {name: calm["result"][name] for name in names}
    assert record["key"] == calm["key"]
    weights = "model.safetensors"
    assert digest(artifact(tmp_path / "limited", "mono") / weights) == digest(artifact(tmp_path / "calm", "mono") / weights)
    assert cluster.jobs() == ""


def test_a_batch_job_that_gets_a_notice_is_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    words = " ".join([sys.executable, "-m", "alma_pipeline", *(f"'{word}'" for word in TRAINING), "hardware=cpu_wide"])
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n#SBATCH --time=10\nexec {words}\n")
    environment = cluster.environment | {
        "ALMA_PIPELINE_STORE": str(tmp_path / "store"),
        "PYTHONPATH": ALTERED,
        "STEP_SECONDS": STEP_SECONDS,
    }
    submit = ["sbatch", "--parsable", "--requeue", f"--output={tmp_path / 'output.txt'}", str(script)]
    job = subprocess.run(submit, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    metrics = tmp_path / "store" / "work"
    wait_for(lambda: [path for path in metrics.glob("mono-*/metrics.jsonl") if '"step": 1,' in path.read_text()], seconds=120)
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: "Restarts=1" in cluster.ask("scontrol", "show", "job", job), seconds=60)
    printed = (tmp_path / "output.txt").read_text()
    assert "interrupted by SIGUSR1; mono resumes from step " in printed
    assert f"Slurm job {job} is queued again" in printed or "queued again" not in printed  # Slurm may have ended it by then
    assert list(metrics.glob("mono-*/resume/step-*/manifest.json"))
    cluster.ask("scancel", job)
