"""MLflow, from the parent process alone: one run per invocation, one per node under it. `tracker` is where to begin."""

from alma_pipeline.tracking.invocation import Invocation
from alma_pipeline.tracking.server import check_uri, tracking_uri
from alma_pipeline.tracking.tracker import Tracker, replay
from alma_pipeline.tracking.values import final_scores, score_metrics

__all__ = ["Invocation", "Tracker", "check_uri", "final_scores", "replay", "score_metrics", "tracking_uri"]
