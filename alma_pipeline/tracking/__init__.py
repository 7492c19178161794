"""MLflow, from the parent process alone: one run per invocation, one per node under it. `tracker` is where to begin."""

from alma_pipeline.tracking.mlflow_values import final_scores, score_metrics
from alma_pipeline.tracking.run_metadata import Invocation
from alma_pipeline.tracking.server import check_uri, tracking_uri
from alma_pipeline.tracking.tracker import Tracker, replay

__all__ = ["Invocation", "Tracker", "check_uri", "final_scores", "replay", "score_metrics", "tracking_uri"]
