"""Connects to MLflow and writes to one experiment. Independent of nodes and recipes.

mlflow is imported inside functions only, in tracking's background thread, because the import takes seconds.
"""

import json
import logging
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.redact import redact
from alma_pipeline.tracking import database
from alma_pipeline.tracking.mlflow_values import metric_points, param_texts, tag_value

PARENT_TAG = "mlflow.parentRunId"
"""MLflow's tag for the run that a run is nested under."""
PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
"""MLflow's limits for one call of `log_batch`; the first also holds for tags."""
DEFAULT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a cluster job must not report to a third party or wait for it at exit
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the outbox retries itself; MLflow's default of seven retries takes minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
MAIN_SCORE = "eval/avg/en-xx/chrf_pp"


def experiment_tags() -> dict[str, str]:
    """Experiment tags that make MLflow's run list show scores; by default it shows no metrics."""
    # The state of a saved view, in the form that MLflow's web UI writes it.
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


def check_uri(root: Path) -> None:
    """Raise UserError before anything runs for an address at which MLflow would fail in the middle of a run (B40)."""
    database.check_path(root)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    scheme = urlsplit(uri).scheme
    if uri and not allowed and (scheme == "file" or (not scheme and uri != "databricks")):
        target = "sqlite:////home/me/mlflow.db"
        migrate = shlex.join(["mlflow", "migrate-filestore", "--source", unquote(urlsplit(uri).path) or uri, "--target", target])
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} is a folder; MLflow no longer writes to folders. Unset it to use "
            f"mlflow.db in the store, or set it to a database or server, such as {target} or http://host:5000. To migrate the "
            f"folder's runs: `{migrate}`. To use the folder anyway, set MLFLOW_ALLOW_FILE_STORE=true."
        )


class Server:
    """One experiment of a tracking server or database. Methods raise what MLflow raises."""

    def __init__(self, client: Any, experiment: str, lock: FileLock) -> None:
        self.client = client
        self.experiment = experiment
        """Its id."""
        self.lock = lock
        """Held while creating what must exist once, across the processes that use this store."""

    def reachable(self) -> bool:
        """Whether the server answers now."""
        try:
            self.client.get_experiment(self.experiment)
        except Exception:  # any error means no
            return False
        return True

    def create(self, name: str, uid: str, tags: Mapping[str, str], began: float, again: bool) -> str:
        """Create a run and return its id. `again`: an earlier try may have created it although its response was lost."""
        if again and (found := self.find(f"tags.`alma.uid` = '{uid}'")):
            return str(found[0].info.run_id)
        fitting = {key: tag_value(value) for key, value in tags.items()} | {"alma.uid": uid}
        run = self.client.create_run(self.experiment, start_time=int(began * 1000), tags=fitting, run_name=name)
        return str(run.info.run_id)

    def run(self, run_id: str) -> Any:
        """The run; None if it was deleted or never existed."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def find(self, condition: str) -> list[Any]:
        """The experiment's runs that match a filter string, newest first."""
        found: list[Any] = []
        token: str | None = None
        while token is None or token:
            page = self.client.search_runs([self.experiment], condition, page_token=token)
            found += page
            token = page.token or ""
        return found

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, in batches of at most MLflow's limit; long values are shortened."""
        from mlflow.entities import RunTag

        for part in _batches([RunTag(key, tag_value(value)) for key, value in tags.items()], PARAMS_PER_CALL):
            self.client.log_batch(run_id, tags=part)

    def log_params(self, run_id: str, settings: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
        """Log settings that are not yet `known`; returns those that differ from the known ones, which MLflow keeps (B32–B34)."""
        from mlflow.entities import Param

        texts, long = param_texts(settings)
        new = [Param(key, value) for key, value in texts.items() if key not in known]
        for part in _batches(new, PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=part)
        if long:
            text = json.dumps(long, indent=1, ensure_ascii=False)
            self.client.log_text(run_id, text, "config/long_params.json")
        return {key: value for key, value in texts.items() if key in known and known[key] != value}

    def known_points(self, run_id: str) -> set[tuple[str, int]]:
        """(name, step) of every metric point of a run, system metrics excluded."""
        names = [name for name in self.client.get_run(run_id).data.metrics if not name.startswith("system/")]
        return {(name, point.step) for name in names for point in self.client.get_metric_history(run_id, name)}

    def log_lines(
        self, run_id: str, lines: Sequence[Mapping[str, Any]], known: Set[tuple[str, int]] = frozenset(), model: str | None = None
    ) -> None:
        """Log lines of metrics.jsonl with their own times, except points that are `known`; also to the logged `model`, if given.

        A resumed node repeats the steps after its last resume point; each step still becomes one point.
        """
        from mlflow.entities import Metric

        given = {(point[0], point[3]): point for point in metric_points(lines)}
        new = [Metric(*point, model_id=model, run_id=run_id) for point_id, point in given.items() if point_id not in known]
        for part in _batches(new, METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=part)

    def log_datasets(self, run_id: str, datasets: Iterable[Sequence[str]]) -> None:
        """Log datasets, each as (name, digest, context)."""
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
    """Connect, and create the database and the experiment if missing, once across processes (B31, B39).

    Raises what MLflow and the database raise, and PipelineError for a database of another MLflow or that another
    process alone may write, a deleted experiment, and one whose artifact folder is gone.
    """
    root.mkdir(parents=True, exist_ok=True)
    client_class = mlflow_client_class()
    database.check_sole_writer(uri)
    lock = database.lock(root)
    with lock:
        database.create_database(client_class, uri)
        if problem := database.schema_problem(uri):
            raise PipelineError(problem)
        # The store may have been moved since.
        if uri == database.own_uri(root):
            database.mend_places(root)
        client = client_class(tracking_uri=uri)
        remote = uri.startswith(("http", "databricks"))
        found = _experiment(client, experiment, None if remote else root / database.ARTIFACTS)
        database.share(uri)
    return Server(client, found, lock)


def mlflow_client_class() -> Any:
    """The class MlflowClient, with MLflow's logging silenced: its failures are exceptions, of which the outbox warns once."""
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
        except MlflowException as error:  # a process of another store created it first
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    # A deleted experiment keeps its name, so a new one cannot replace it.
    if found.lifecycle_stage != "active":
        restore = shlex.join(["mlflow", "experiments", "restore", "-x", str(found.experiment_id)])
        raise PipelineError(f"experiment '{name}' is deleted in MLflow; run `{restore}` or set tracking.experiment")
    # MLflow would make the folder again, in a place that nobody looks at.
    place = database.local_folder(found.artifact_location)
    if artifacts and place and not place.parent.is_dir():
        raise PipelineError(
            f"experiment '{name}' keeps its files in {place}, and {place.parent} does not exist (a store that was moved?): "
            "set tracking.experiment to a new name"
        )
    return str(found.experiment_id)


def _batches(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
