"""The whole command: given notice while it trains, repeated, and then on a full device."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ALTERED
from helpers.command import SMALL, newest, next_metrics, run

WORDS = ["stage=mono", *SMALL, "budget.mono.steps=12", "evaluation=paper", "evaluation.checkpoints=[]"]


@pytest.mark.slow
def test_after_sigterm_and_a_full_device_a_node_is_still_one_run_that_measured_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ALTERED)
    process = subprocess.Popen(
        [sys.executable, "-m", "alma_pipeline", *WORDS],
        env=os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path), "STEP_SECONDS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert next_metrics(tmp_path, process, "mono")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"alma-pipeline: interrupted by SIGTERM; mono resumes from step " in error, error
    # The same command resumes, now on a device with room for half the tokens.
    monkeypatch.setenv("DEVICE_TOKENS", "2048")
    done = run(tmp_path, *WORDS)
    assert done.returncode == 0, done.stderr
    assert "mono: resume (from step " in done.stdout
    assert " with hardware.micro_batch_tokens=2048 (was 4096), which changes no result" in done.stdout
    record = newest(tmp_path, "mono")
    assert record["hardware"]["micro_batch_tokens"] == 2048
    assert record["provenance"]["lowered"] == "the device ran out of memory: hardware.micro_batch_tokens 4096 → 2048"
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs = database.execute("select run_uuid, status from runs where name = 'mono'").fetchall()
        assert [status for _, status in runs] == ["FINISHED"]
        steps = database.execute("select step from metrics where key = 'train/loss' and run_uuid = ?", runs[0][:1]).fetchall()
    assert sorted(step for (step,) in steps) == list(range(1, 13))


@pytest.mark.slow
def test_a_device_that_is_always_full_ends_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ALTERED)
    monkeypatch.setenv("DEVICE_TOKENS", "1")
    done = run(tmp_path, *WORDS, "tracking=none")
    assert done.returncode == 1
    assert "memory ran out; the plan estimated " in done.stderr
    assert "is the longest example and cannot be lowered" in done.stderr
    assert done.stdout.count("mono: the device ran out of memory") >= 2
