"""Reads the plans of earlier invocations from MLflow, and logs a report to an invocation's run."""

import json
from pathlib import Path
from typing import Any

from alma_pipeline.tracking.database import follow_move, own_uri, tracking_uri
from alma_pipeline.tracking.outbox import reason
from alma_pipeline.tracking.server import PARENT_TAG, connect, mlflow_client_class
from alma_pipeline.tracking.undelivered import deliver_kept

PLAN_ARTIFACT = "config/plan.json"
REPORT_FOLDER = "report"


def invocation_plans(root: Path, text: str) -> list[list[dict[str, Any]]]:
    """The steps of the plan of an invocation, by run name or id, or of each job of a sweep, by its id.

    Empty if no run matches. Raises what MLflow raises.
    """
    uri = tracking_uri(root)
    if uri == own_uri(root):
        follow_move(root)
    client = mlflow_client_class()(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`alma.level` = 'invocation'", order_by=["attributes.start_time DESC"])
    found = [run for run in runs if text in (run.info.run_name, run.info.run_id)][:1]
    found = found or [run for run in runs if run.data.tags.get("alma.sweep_id") == text]
    return [steps for run in found if (steps := _plan(client, run.info.run_id))]


def _plan(client: Any, run: str) -> list[dict[str, Any]]:
    """The steps of a run's plan; empty if the run was interrupted before its plan was logged."""
    if all(file.path != PLAN_ARTIFACT for file in client.list_artifacts(run, "config")):
        return []
    steps: list[dict[str, Any]] = json.loads(Path(client.download_artifacts(run, PLAN_ARTIFACT)).read_text(encoding="utf-8"))[
        "steps"
    ]
    return steps


def log_report(root: Path, experiment: str, node_run: str, path: Path) -> str:
    """Log a file to the invocation's run that contains a node's run; returns a line for the user. Never raises."""
    uri = tracking_uri(root)
    try:
        server = connect(root, uri, experiment)
        deliver_kept(root, server, uri, experiment)
        run = server.run(node_run)
        if run is None:
            return f"not in MLflow: run {node_run} no longer exists"
        outer = run.data.tags.get(PARENT_TAG, node_run)
        server.client.log_artifact(outer, str(path), REPORT_FOLDER)
    except Exception as error:  # any error of MLflow's: the report itself is already written
        return f"not in MLflow: {reason(error)}"
    return f"in MLflow: run {outer}, {REPORT_FOLDER}/{path.name}"
