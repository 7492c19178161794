"""The whole command on tiny budgets, what it leaves, and how to kill what it starts."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SMALL = [
    *("budget.text.documents=80", "budget.text.pairs=60", "budget.text.dev=6", "budget.text.test=5"),
    *(f"budget.{node}.steps=4" for node in ("mono", "parallel", "group_adapter", "group_pseudo_mono", "group_parallel")),
    *("budget.cpo.steps=3", "budget.arpo.steps=3", "evaluation.max_new_tokens=12"),
    *("budget.preferences.sources=16", "budget.preferences.held_out=6", "budget.preferences.candidates=2"),
    *("budget.group_preferences.sources=16", "budget.group_preferences.held_out=6", "budget.group_preferences.candidates=2"),
    "tracking.system_metrics=false",
]


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


def newest(store: Path, name: str) -> dict[str, Any]:
    """The record of the artifact of this name that was made last."""
    found = [path for path in (store / "artifacts").iterdir() if path.name.rpartition("-")[0] == name]
    record: dict[str, Any] = json.loads((max(found, key=lambda path: path.stat().st_mtime_ns) / "record.json").read_text())
    return record


def next_metrics(store: Path, process: "subprocess.Popen[bytes]", node: str) -> bool:
    """Wait until a node has begun to train (again), or the command has ended."""
    before = 0
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        found = list((store / "work").glob(f"{node}-*/metrics.jsonl")) if (store / "work").is_dir() else []
        size = found[0].stat().st_size if found else 0
        if before and size > before:
            return True
        before = size or before
        time.sleep(0.02)
    return False


def kill_worker(store: Path) -> None:
    """The process that holds a worker lock open."""
    locks = [str(path) for path in (store / "locks").glob("*.worker")]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            opened = [os.readlink(handle) for handle in (entry / "fd").iterdir()]
        except OSError:
            continue
        command = (entry / "cmdline").read_bytes()
        if (b"forkserver" in command or b"alma_pipeline.execution.worker" in command) and any(name in locks for name in opened):
            os.kill(int(entry.name), signal.SIGKILL)
