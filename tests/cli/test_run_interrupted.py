"""The whole command, given notice while it trains, and repeated."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PYTHONPATH, ROOT
from helpers.command import SMALL, artifact, next_metrics, run

WORDS = ["stage=mono", *SMALL, "budget.mono.steps=12", "evaluation=paper", "evaluation.checkpoints=[]"]
SLOW = f"{ROOT / 'tests' / 'helpers' / 'slow_steps'}{os.pathsep}{PYTHONPATH}"


@pytest.mark.slow
def test_sigterm_leaves_a_resume_point_and_the_same_command_continues_in_one_mlflow_run(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "alma_pipeline", *WORDS],
        env=os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path), "PYTHONPATH": SLOW},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert next_metrics(tmp_path, process, "mono")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"alma-pipeline: interrupted by SIGTERM; mono resumes from step " in error, error
    done = run(tmp_path, *WORDS)
    assert done.returncode == 0, done.stderr
    assert "mono: resume (from step " in done.stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs = database.execute("select run_uuid, status from runs where name = 'mono'").fetchall()
        assert [status for _, status in runs] == ["FINISHED"]
        steps = database.execute("select step from metrics where key = 'train/loss' and run_uuid = ?", runs[0][:1]).fetchall()
    assert sorted(step for (step,) in steps) == list(range(1, 13)), "each step is measured once"
    assert (artifact(tmp_path, "mono") / "record.json").exists()
