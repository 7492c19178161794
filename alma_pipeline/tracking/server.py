"""The MLflow side: where it is, and an experiment of it to write to. Knows nothing of nodes or recipes.

Everything that imports mlflow does so inside a function, in tracking's background thread: the import takes seconds.
"""

import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.redact import redact
from alma_pipeline.tracking.mlflow_values import parameters, points, short

PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
LOCK_SECONDS = 120
"""Creating the database takes seconds on a local disk; whoever waits longer tries again later."""
NETWORK_DISKS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "panfs", "weka", "fuse.", "9p")
DEFAULT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a cluster job neither reports to a third party nor waits for it at exit
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the outbox tries again itself; MLflow's own seven tries take minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
MAIN_SCORE = "eval/avg/en-xx/chrf_pp"


def experiment_tags() -> dict[str, str]:
    """What makes MLflow's pages show scores: by itself its run list has no metric in it."""
    columns = [f"metrics.`{MAIN_SCORE}`", "metrics.`eval/avg/xx-en/chrf_pp`", "tags.`alma.overrides`", "attributes.`Source`"]
    view = {
        "searchFilter": "tags.`alma.level` = 'invocation'",
        "orderByKey": f"metrics.`{MAIN_SCORE}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
    }
    saved = {"name": "Scores", "createdAt": int(time.time() * 1000), "state": json.dumps(view)}
    return {
        "mlflow.experimentKind": "custom_model_development",  # its page opens on the list of runs
        "mlflow.experiment.primaryMetric.name": MAIN_SCORE,
        "mlflow.sharedViewState.scores": json.dumps(saved),
        "mlflow.note.content": "One run per invocation, its nodes nested under it. Views → Scores sorts invocations by score.",
    }


def check_uri() -> None:
    """Refuse a file store before anything runs; MLflow itself would only do so in the middle (B40). Raises UserError."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    scheme = urlsplit(uri).scheme
    if uri and not allowed and (scheme == "file" or (not scheme and uri != "databricks")):
        folder = urlsplit(uri).path or uri
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} is a folder; MLflow no longer writes to folders. Unset it to use "
            "mlflow.db in the store, or give a database or server, such as sqlite:////home/me/mlflow.db or "
            f"http://host:5000. Runs that lie in the folder are taken along by `mlflow migrate-filestore --source "
            f"{folder} --target sqlite:////home/me/mlflow.db`. MLFLOW_ALLOW_FILE_STORE=true uses the folder all the same."
        )


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or a database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute() / 'mlflow.db'}"


class Server:
    """One experiment of a tracking server or database. Methods raise what MLflow raises."""

    def __init__(self, client: Any, experiment: str, lock: FileLock) -> None:
        self.client = client
        self.experiment = experiment
        """Its id."""
        self.lock = lock
        """For what must exist once, across the processes of this store."""

    def reachable(self) -> bool:
        """Whether it answers now."""
        try:
            self.client.get_experiment(self.experiment)
        except Exception:  # asked after a failure: any error is the answer no
            return False
        return True

    def create(self, name: str, uid: str, tags: Mapping[str, str], began: float, again: bool) -> str:
        """A new run's id. `again`: an earlier try may have made it without us hearing so."""
        if again and (found := self.find(f"tags.`alma.uid` = '{uid}'")):
            return str(found[0].info.run_id)
        fitting = {key: short(value) for key, value in tags.items()} | {"alma.uid": uid}
        run = self.client.create_run(self.experiment, start_time=int(began * 1000), tags=fitting, run_name=name)
        return str(run.info.run_id)

    def run(self, run_id: str) -> Any:
        """The run, or None where it was deleted or never was."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def find(self, condition: str) -> list[Any]:
        """The experiment's runs that meet a condition, newest first."""
        found: list[Any] = []
        token: str | None = None
        while token is None or token:
            page = self.client.search_runs([self.experiment], condition, page_token=token)
            found += page
            token = page.token or ""
        return found

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, in as many calls as MLflow's limits ask for; long values are shortened."""
        from mlflow.entities import RunTag

        for part in _parts([RunTag(key, short(value)) for key, value in tags.items()], PARAMS_PER_CALL):
            self.client.log_batch(run_id, tags=part)

    def log_params(self, run_id: str, settings: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
        """Log what is not yet `known`; returns the texts that differ from the known ones, which stay (B32–B34)."""
        from mlflow.entities import Param

        texts, long = parameters(settings)
        new = [Param(key, value) for key, value in texts.items() if key not in known]
        for part in _parts(new, PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=part)
        if long:
            text = json.dumps(long, indent=1, ensure_ascii=False)
            self.client.log_text(run_id, text, "config/long_params.json")
        return {key: value for key, value in texts.items() if key in known and known[key] != value}

    def known_points(self, run_id: str) -> set[tuple[str, int]]:
        """Name and step of every point of a run, the machine's own measures aside."""
        names = [name for name in self.client.get_run(run_id).data.metrics if not name.startswith("system/")]
        return {(name, point.step) for name in names for point in self.client.get_metric_history(run_id, name)}

    def log_lines(
        self, run_id: str, lines: Sequence[Mapping[str, Any]], known: Set[tuple[str, int]] = frozenset(), model: str | None = None
    ) -> None:
        """Lines of metrics.jsonl with their own times, less the points that are `known`; also on a `model` of the run.

        A node that was killed measures again what it had measured after its last resume point: a step is one point.
        """
        from mlflow.entities import Metric

        given = {(point[0], point[3]): point for point in points(lines)}
        new = [Metric(*point, model_id=model, run_id=run_id) for place, point in given.items() if place not in known]
        for part in _parts(new, METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=part)

    def log_datasets(self, run_id: str, datasets: Iterable[Sequence[str]]) -> None:
        """(name, digest, context) of each."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(name[:500], digest[:36], "local", json.dumps({"name": name[:500]})),
                tags=[InputTag("mlflow.data.context", context)],
            )
            for name, digest, context in datasets
        ]
        if inputs:
            self.client.log_inputs(run_id, datasets=inputs)


def connect(root: Path, uri: str, experiment: str) -> Server:
    """Create what is missing, once across processes (B31, B39). Raises what MLflow and the database raise."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / "mlflow.lock", timeout=LOCK_SECONDS)
    client_class = import_client()
    with lock:
        _create_database(client_class, uri)
        client = client_class(tracking_uri=uri)
        found = _experiment(client, experiment, None if uri.startswith(("http", "databricks")) else root / "mlartifacts")
        _share(uri)
    return Server(client, found, lock)


def import_client() -> Any:
    """MlflowClient, with MLflow's own talk turned off: its failures reach us as exceptions and are told once."""
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def _experiment(client: Any, name: str, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = artifacts.absolute().as_uri() if artifacts else None
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=experiment_tags()))
        except MlflowException as error:  # a process of another store was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        number = found.experiment_id
        raise PipelineError(
            f"experiment '{name}' is deleted in MLflow: `mlflow experiments restore -x {number}`, or another tracking.experiment"
        )
    return str(found.experiment_id)


def _create_database(client_class: Any, uri: str) -> None:
    """Make a new SQLite file under another name first: one that is cut off in MLflow's migrations never works again."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    folder = path.with_name(f"{path.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    client_class(tracking_uri=f"sqlite:///{folder / 'draft.db'}")
    shutil.copyfile(folder / "draft.db", folder / "copy.db")  # the draft is still open in this process
    os.replace(folder / "copy.db", path)
    shutil.rmtree(folder)


def _share(uri: str) -> None:
    """Let the UI read an SQLite file while runs write it: a write-ahead log, where the disk can carry one."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_file() or _on_network(path):
        return
    connection = sqlite3.connect(path, timeout=20)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _on_network(path: Path) -> bool:
    """SQLite's write-ahead log needs memory shared between its users, which a network file system has not."""
    import psutil

    mounts = [part for part in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(part.mountpoint)]
    deepest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return deepest is not None and deepest.fstype.startswith(NETWORK_DISKS)


def _parts(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
