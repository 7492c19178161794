"""Tracks an invocation in MLflow: one run per invocation, one nested run per node. Used by the parent process only.

A `Tracker` only queues events; a background thread imports mlflow and delivers them. A failure there costs one warning:
undelivered events are kept in the store, and the next invocation delivers them.
"""

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alma_pipeline.redact import redact, redact_values
from alma_pipeline.schema import Tracking
from alma_pipeline.tracking.database import tracking_uri
from alma_pipeline.tracking.mlflow_values import finite_metrics, mlflow_name, score_metrics, signature_tags
from alma_pipeline.tracking.outbox import Outbox
from alma_pipeline.tracking.recorder import INVOCATION_RUN, Recorder, read_lines
from alma_pipeline.tracking.repair import process_tags
from alma_pipeline.tracking.run_metadata import Invocation, installed_packages
from alma_pipeline.tracking.server import connect
from alma_pipeline.tracking.undelivered import begin_keeping, deliver_kept, keep, kept, public_uri

log = logging.getLogger(__name__)

LIGHT_FILES = {"record.json": None, "scores.json": "eval", "hypotheses.jsonl": "eval", "segments.jsonl": "eval"}
"""Files of an artifact that `tracking.artifacts=light` uploads → the folder they go to."""
LOG_BYTES = 64 * 1024
"""How much of the end of a node's log is uploaded."""


class Tracker:
    """Tracks one invocation. No method waits for MLflow or raises its errors, except that `close` and `run_id` wait.

    The invocation's run is created with its first node: an invocation that runs nothing leaves no run and does not
    import mlflow; nor does one with `tracking.enabled=false`.
    """

    def __init__(self, root: Path, settings: Tracking, invocation: Invocation) -> None:
        self._root = root.absolute()
        self._settings = settings
        self._invocation = invocation
        self._uri = tracking_uri(root) if settings.enabled else ""
        self._runs: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """Key of a node that ran → its name."""
        self._evaluated: dict[str, str] = {}
        """Name of an evaluation node → name of the node that made its checkpoint."""
        self._without_run_id: dict[str, Path] = {}
        """Node whose work folder lacks its run id → that folder."""
        self._running: dict[str, Path] = {}
        """Node → its work folder."""
        self._began = self._packages_logged = self._finished = False
        self._kept = begin_keeping(self._root)
        self._outbox = Outbox(self._connect, f"MLflow at {redact(self._uri)}")

    def node_started(
        self,
        node: str,
        kind: str,
        key: str,
        *,
        settings: dict[str, Any],
        inputs: Mapping[str, str],
        work: Path,
        datasets: Sequence[tuple[str, str, str]] = (),
        checkpoint: str = "",
    ) -> None:
        """A node starts in its work folder; an interrupted node resumes its run.

        `settings`: nested, become parameters. `inputs`: role → key. `datasets`: (name, digest, train | dev | test).
        `checkpoint`: for an evaluation node, the key of the checkpoint it evaluates.
        """
        self._begin()
        tags = {
            "alma.level": "evaluation" if checkpoint else "node",
            "alma.stage": kind,
            "alma.node": node,
            "alma.key": key,
            "alma.parent_key": inputs.get("init", checkpoint),
            "alma.status": "RUNNING",
            **{f"alma.input.{role}": value for role, value in inputs.items()},
            **({"alma.checkpoint_key": checkpoint} if checkpoint else {}),
        }
        # Scores are repeated on the run of the checkpoint, if this invocation made it.
        self._names[key] = node
        if checkpoint in self._names:
            self._evaluated[node] = self._names[checkpoint]
        # An earlier attempt left its run id: the recorder resumes that run.
        earlier = work / "mlflow_run"
        self._put(
            do="node",
            node=node,
            uid=secrets.token_hex(8),
            run=earlier.read_text(encoding="utf-8").strip() if earlier.is_file() else "",
            tags=process_tags() | self._invocation.source_tags() | tags,
            settings=settings,
            datasets=[list(dataset) for dataset in datasets],
            evaluates=self._evaluated.get(node),
            paths={"metrics": str(work / "metrics.jsonl")},
        )
        self._running[node] = work
        self._without_run_id[node] = work

    def metrics(self, node: str, lines: list[dict[str, Any]]) -> None:
        """Queue new lines of a node's metrics.jsonl."""
        self._put(do="metrics", node=node, lines=lines)
        self._write_run_ids()

    def node_ended(self, node: str, status: str, result: dict[str, Any], log: Path, artifacts: Sequence[Path]) -> None:
        """A node ended. `status`: FINISHED, FAILED or KILLED. `log`: its log file. `artifacts`: its artifact's files."""
        self._without_run_id.pop(node, None)
        self._running.pop(node, None)
        # Only `score` nodes have signatures; metrics that the outbox dropped are read from the file again.
        scored = "signatures" in result
        self._put(
            do="end",
            node=node,
            status=status,
            metrics=score_metrics(result) if scored else finite_metrics(result, "result"),
            tags={"alma.status": status} | (signature_tags(result) if scored else {}),
            repeat_on=self._evaluated.get(node) if scored else None,
            paths={"metrics": str(log.with_name("metrics.jsonl"))} if node in self._outbox.gaps else {},
        )
        # After the end: the model copies the parameters and lineage tags of the run.
        if "checkpoint" in result and status == "FINISHED":
            self._put(do="model", node=node)
        if self._settings.artifacts != "none":
            if tail := _tail(log):
                self._put(do="texts", node=node, texts={f"logs/{node}.log": tail})
            self._upload(node, artifacts, "checkpoint" in result)

    def finished(self, status: str, scores: Mapping[str, float]) -> None:
        """The invocation ended. `status`: FINISHED, FAILED or KILLED. `scores`: from `final_scores`, reused nodes included."""
        if not self._began or self._finished:
            return
        self._finished = True
        for node, work in list(self._running.items()):
            self.node_ended(node, "KILLED" if status == "KILLED" else "FAILED", {}, work / "log.txt", [])
        metrics = {mlflow_name(key): value for key, value in scores.items()}
        tags = {"alma.status": status}
        self._put(do="end", node=INVOCATION_RUN, status=status, metrics=metrics, tags=tags, repeat_on=None, paths={})

    def close(self, limit: float = 30.0) -> None:
        """Deliver waiting events for at most `limit` seconds; keep the rest in the store for the next invocation.

        With tracking.artifacts=checkpoints there is no limit: uploads of weights may take long.
        """
        if self._began and not self._finished:
            self.finished("FAILED", {})
        patient = self._settings.artifacts == "checkpoints" and not self._outbox.down
        try:
            self._outbox.close(None if patient else limit)
        finally:
            self._keep_undelivered()

    def run_id(self, node: str, within: float = 0.0) -> str:
        """The id of a node's run; empty if it is still unknown after `within` seconds."""
        self._outbox.wait(lambda: node in self._runs, within)
        return self._runs.get(node, "")

    def _begin(self) -> None:
        """Queue the invocation's own run, once."""
        if self._began or not self._settings.enabled:
            return
        self._began = True
        # If this process is killed, a later one ends its runs.
        keep(self._kept, self._root, self._uri, self._settings.experiment, {}, [])
        invocation = self._invocation
        self._put(
            do="begin",
            node=INVOCATION_RUN,
            name=invocation.name,
            uid=secrets.token_hex(8),
            tags=process_tags() | invocation.tags(),
            settings=invocation.settings(),
            sweep=invocation.sweep,
            sweep_name=f"sweep {invocation.stage} {invocation.sweep}",
        )
        self._put(do="texts", node=INVOCATION_RUN, texts=invocation.artifacts())

    def _upload(self, node: str, artifacts: Sequence[Path], is_checkpoint: bool) -> None:
        for path in artifacts:
            if path.name in LIGHT_FILES:
                self._put_files(node, [path], LIGHT_FILES[path.name], as_is=False)
        if is_checkpoint and self._settings.artifacts == "checkpoints":
            files = [path for path in artifacts if path.name not in LIGHT_FILES]
            self._put_files(node, files, "checkpoint", as_is=True)

    def _put_files(self, node: str, files: Sequence[Path], folder: str | None, as_is: bool) -> None:
        self._put(do="files", node=node, folder=folder, as_is=as_is, paths={"files": [str(path) for path in files]})

    def _put(self, **event: Any) -> None:
        """Queue a redacted event; its paths are only read by the recorder and are not redacted."""
        if self._settings.enabled:
            paths = event.pop("paths", {})
            self._outbox.put({"time": time.time(), "again": False} | redact_values(event) | {"paths": paths})

    def _keep_undelivered(self) -> None:
        if events := self._outbox.waiting():
            keep(self._kept, self._root, self._uri, self._settings.experiment, self._runs, events)
        else:
            self._kept.unlink(missing_ok=True)

    def _write_run_ids(self) -> None:
        """Write run ids into work folders; in the caller's thread, because that one also removes the folders."""
        for node in [node for node in self._without_run_id if node in self._runs]:
            work = self._without_run_id.pop(node)
            if work.is_dir():
                (work / "mlflow_run").write_text(self._runs[node], encoding="utf-8")

    def _connect(self) -> Recorder:
        """Connect and deliver what earlier invocations kept. Runs in the background thread."""
        # Listing the packages is slow, so it is done here and not in the caller's thread.
        if not self._packages_logged:
            self._packages_logged = True
            self._put(do="texts", node=INVOCATION_RUN, texts=installed_packages())
        server = connect(self._root, self._uri, self._settings.experiment)
        deliver_kept(self._root, server, self._uri, self._settings.experiment)
        return Recorder(server, self._runs, self._settings.system_metrics)


def deliver_waiting(root: Path, settings: Tracking, limit: float = 120.0) -> None:
    """Deliver for at most `limit` seconds what earlier invocations kept; for one that has nothing to run.

    Does not import mlflow if nothing waits for this server. Warns if the server is unavailable, and raises nothing.
    """
    uri = tracking_uri(root) if settings.enabled else ""
    waiting = [one for one in kept(root) if one.uri == public_uri(uri)]
    if not waiting:
        return
    records = sum(len(one.events) for one in waiting)
    log.warning("tracking: delivering what earlier invocations kept for MLflow at %s: %d records", public_uri(uri), records)

    def connected() -> Recorder:
        server = connect(root, uri, settings.experiment)
        deliver_kept(root, server, uri, settings.experiment)
        return Recorder(server, {}, system_metrics=False)

    outbox = Outbox(connected, f"MLflow at {redact(uri)}")
    outbox.put({"do": "nothing", "node": INVOCATION_RUN})
    outbox.close(limit)


def replay(root: Path, settings: Tracking, work: Path, run_id: str) -> int:
    """Log a work or artifact folder's metrics.jsonl to a run again, without duplicating points that the run has.

    Returns the number of lines in the file. Raises what MLflow raises.
    """
    lines = list(read_lines(work / "metrics.jsonl"))
    server = connect(root, tracking_uri(root), settings.experiment)
    server.log_lines(run_id, lines, server.known_points(run_id))
    return len(lines)


def _tail(path: Path) -> str:
    """The last `LOG_BYTES` of a log file; empty if it does not exist."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode("utf-8", errors="replace")
