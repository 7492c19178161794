"""A report as an artifact of the MLflow run it is about. A tracking server that does not answer costs one line."""

from pathlib import Path

from alma_pipeline.tracking.server import connect, tracking_uri

FOLDER = "report"
PARENT = "mlflow.parentRunId"


def log(root: Path, experiment: str, node_run: str, path: Path) -> str:
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
