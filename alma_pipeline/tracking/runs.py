"""Invocations that MLflow remembers, by name, id or sweep, as the plans they carried out."""

import json
from pathlib import Path
from typing import Any

from alma_pipeline.tracking.server import connect, import_client, tracking_uri

PLAN = "config/plan.json"


def plans(root: Path, text: str) -> list[list[dict[str, Any]]]:
    """The steps of each plan; of a sweep one for each job. Empty where no run is meant. Raises what MLflow raises."""
    client = import_client()(tracking_uri=tracking_uri(root))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`alma.level` = 'invocation'", order_by=["attributes.start_time DESC"])
    meant = [run for run in runs if text in (run.info.run_name, run.info.run_id)][:1]
    meant = meant or [run for run in runs if run.data.tags.get("alma.sweep_id") == text]
    return [steps for run in meant if (steps := _plan(client, run.info.run_id))]


def _plan(client: Any, run: str) -> list[dict[str, Any]]:
    """Empty for a run that was interrupted before its plan was delivered."""
    if all(file.path != PLAN for file in client.list_artifacts(run, "config")):
        return []
    steps: list[dict[str, Any]] = json.loads(Path(client.download_artifacts(run, PLAN)).read_text(encoding="utf-8"))["steps"]
    return steps


FOLDER = "report"
PARENT = "mlflow.parentRunId"


def log_report(root: Path, experiment: str, node_run: str, path: Path) -> str:
    """Put a file on the run of the invocation that a node's run belongs to; says in words what became of it."""
    uri = tracking_uri(root)
    try:
        server = connect(root, uri, experiment)
        run = server.run(node_run)
        if run is None:
            return f"not in MLflow: run {node_run} is not there any more"
        outer = run.data.tags.get(PARENT, node_run)
        server.client.log_artifact(outer, str(path), FOLDER)
    except Exception as error:  # whatever MLflow raises: the page is written, and that is what was asked for
        return f"not in MLflow: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return f"in MLflow: run {outer}, {FOLDER}/{path.name}"
