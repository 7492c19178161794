"""What the tracking tests share: an invocation, and a real MLflow server as a subprocess."""

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Invocation, Tracker

Make = Callable[..., Tracker]
KEY = "0123456789abcdef" * 4
SCORES: dict[str, Any] = {
    "directions": {"de-en": {"chrf++": 70.5, "bleu": 40.0}, "en-de": {"chrf++": 60.5, "bleu": 30.0}},
    "averages": {"en-xx": {"chrf++": 60.5}, "xx-en": {"chrf++": 70.5}},
    "signatures": {"chrf++": "nrefs:1|nw:2", "bleu": {"de-en": "tok:13a", "en-de": "tok:13a"}},
}


def invocation(name: str = "cpo-tiny-01234567", beta: float = 0.1, **changes: Any) -> Invocation:
    config = {
        "hardware": {"launcher": "local", "devices": 1, "nodes": 1},
        "stages": {"cpo": {"beta": beta, "learning_rate": 1e-4, "kind": "cpo"}},
        "groups": {"g1": {"arpo": "???"}},
        "languages": {"de": {"name": "German"}},
    }
    provenance = {"user": "ada", "git": {"commit": "c0ffee", "branch": "main", "dirty": True, "remote": "https://h/r.git"}}
    values: dict[str, Any] = {
        "name": name,
        "stage": "cpo",
        "config": config,
        "overrides": ["stage=cpo", f"stages.cpo.beta={beta}"],
        "plan": [{"name": "cpo", "verdict": "run"}],
        "provenance": provenance,
    }
    return Invocation(**values | changes)


def line(step: int, loss: float, at: float = 1_700_000_000.0) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {"time": at + step, "step": step, "total": 10, "metrics": {"train/loss": loss}}


def start_node(tracker: Tracker, work: Path, node: str = "cpo", **changes: Any) -> None:
    work.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"settings": {"beta": 0.1}, "inputs": {"init": "f" * 64}, "work": work}
    tracker.node_started(node, node.rpartition(".")[2], changes.pop("key", KEY), **values | changes)


def one_run(tracker: Tracker, work: Path, status: str = "FINISHED", node: str = "cpo") -> None:
    start_node(tracker, work, node)
    tracker.metrics(node, [line(1, 2.0), line(2, 1.5)])
    tracker.node_ended(node, status, {"steps": 2, "checkpoint": {"form": "full"}}, work / "log.txt", [])
    tracker.finished(status, {"eval/avg/en-xx/chrf++": 60.5})
    tracker.close(limit=300)


def runs(client: Any, settings: Tracking) -> dict[str, Any]:
    """Runs of the test's experiment by name."""
    found = client.get_experiment_by_name(settings.experiment)
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])} if found else {}


def copy_database(source: Path, target: Path) -> None:
    """Give a store the database of another one, which may be open."""
    target.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source / "mlflow.db")) as opened, closing(sqlite3.connect(target / "mlflow.db")) as copy:
        opened.backup(copy)


def artifact(run: Any, path: str) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")) / path).read_text(encoding="utf-8")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def script(body: str) -> list[str]:
    """A Python process with the tests' helpers at hand."""
    head = "import os, signal, sys\nfrom pathlib import Path\n"
    head += "from helpers.tracking import *\nfrom alma_pipeline.schema import Tracking\n"
    return [sys.executable, "-c", head + body]


class MlflowServer:
    """`mlflow server` on a loopback port of its own, on a database that outlives it."""

    def __init__(self, folder: Path, database: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = database or f"sqlite:///{folder / 'server.db'}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"no MLflow server: {(self.folder / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """As by kill -9; its workers, which share its session, too."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
