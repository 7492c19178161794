"""Turns the runner's events into tracking events: chooses which settings, data and scores of a step its MLflow run gets."""

from pathlib import Path
from typing import Any

from alma_pipeline.plan.plan import Plan, Step, to_json
from alma_pipeline.schema import Config
from alma_pipeline.store.identity import key_settings
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.tracking import Invocation, Tracker, check_uri, final_scores
from alma_pipeline.tracking.run_metadata import SweepJob

DATA_KINDS = ("corpus", "preferences")
"""Kinds whose artifacts are logged as datasets of the nodes that read them."""


class TrackingWatcher:
    """A watcher of the runner that forwards its events to a `Tracker`."""

    def __init__(self, tracker: Tracker, plan: Plan) -> None:
        self.tracker = tracker
        self.plan = plan

    def started(self, step: Step, work: Path) -> None:
        # The settings of the step, not of its node: an adopted checkpoint has its source, not settings it was not trained with.
        inputs = {role: self.plan[name].key for role, name in step.inputs.items()}
        self.tracker.node_started(
            step.node.name,
            step.config.kind,
            step.key,
            settings=key_settings(step.config),
            inputs=inputs,
            work=work,
            datasets=list(self._datasets(step)),
            checkpoint=self._checkpoint(step),
        )

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        self.tracker.metrics(step.node.name, lines)

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        files = [work / name for name in (*record.files, "record.json")] if record else []
        self.tracker.node_ended(step.node.name, status, record.result if record else {}, work / "log.txt", files)

    def waiting(self, text: str) -> None:
        """Nothing to track."""

    def restarts(self, step: Step, text: str) -> None:
        """Nothing to track: the node keeps its run."""

    def close(self, status: str, plan: Plan, records: dict[str, Record]) -> None:
        """End the invocation's run with the final scores, including those of reused nodes."""
        scores = {name.removesuffix(".score"): record.result for name, record in records.items() if record.kind == "score"}
        target = next((step.node.name for step in plan.steps if step.node.target), "")
        self.tracker.finished(status, final_scores(scores, target))
        self.tracker.close()

    def _datasets(self, step: Step) -> list[tuple[str, str, str]]:
        """(name, digest, context) of each data artifact that a step reads; the digest is the start of its key."""
        found = []
        for role, name in step.inputs.items():
            source = self.plan[name]
            if source.node.kind in DATA_KINDS:
                contexts = ("test",) if role == "test" else ("train", "dev")
                found += [(name, source.key[:32], context) for context in contexts]
        return found

    def _checkpoint(self, step: Step) -> str:
        """For an evaluation node, the key of the checkpoint it evaluates; else empty."""
        name = step.node.inputs.get("hypotheses", step.node.name)
        source = self.plan[name].node.inputs.get("checkpoint")
        return self.plan[source].key if source else ""


def check_tracking(config: Config, root: Path) -> None:
    """Raise UserError for a tracking address that cannot work; called before anything is written."""
    if config.tracking.enabled:
        check_uri(root)


def start_tracking(
    config: Config,
    resolved: dict[str, Any],
    plan: Plan,
    store: Store,
    overrides: list[str],
    provenance: dict[str, Any],
    sweep: SweepJob | None,
) -> TrackingWatcher:
    """Start tracking an invocation, after `check`."""
    target = next(step for step in plan.steps if step.node.target)
    name = "-".join(config.targets)
    invocation = Invocation(
        name=f"{name}-{config.model.name}-{target.key[:8]}",
        stage=name,
        config=resolved,
        overrides=overrides,
        plan=to_json(plan),
        provenance=provenance,
        sweep=sweep.id if sweep else "",
        job=sweep.job if sweep else None,
    )
    return TrackingWatcher(Tracker(store.root, config.tracking, invocation), plan)
