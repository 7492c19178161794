"""MLflow tracking, in the parent process only: one run per invocation, one nested run per node. Start reading at `tracker`."""

from alma_pipeline.tracking.database import tracking_uri
from alma_pipeline.tracking.mlflow_values import final_scores, score_metrics
from alma_pipeline.tracking.run_metadata import Invocation
from alma_pipeline.tracking.server import check_uri
from alma_pipeline.tracking.tracker import Tracker, replay

__all__ = ["Invocation", "Tracker", "check_uri", "final_scores", "replay", "score_metrics", "tracking_uri"]
