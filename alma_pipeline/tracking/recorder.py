"""Applies tracking events to MLflow: one run per invocation, one nested run per node, and their contents.

Applying an event twice, after an outage or in a later process, duplicates nothing.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alma_pipeline.redact import redact
from alma_pipeline.tracking.mlflow_values import value_text
from alma_pipeline.tracking.outbox import Event
from alma_pipeline.tracking.repair import end_finished_sweep, sweep_run
from alma_pipeline.tracking.server import PARENT_TAG, Server

INVOCATION_RUN = ""
"""Key of the invocation's own run in `Recorder.runs`, beside the names of its nodes."""
SAMPLING_SECONDS = 10
"""Time between system metrics."""


class Recorder:
    """Applies events to a server. `runs`: node name → run id, filled as runs are created."""

    def __init__(self, server: Server, runs: dict[str, str], system_metrics: bool) -> None:
        self.server = server
        self.runs = runs
        self._system_metrics = system_metrics
        self._monitors: dict[str, Any] = {}
        self._sweep = ""
        self._models: dict[str, str] = {}
        """Run id → id of the model it made."""
        self._known: dict[str, set[tuple[str, int]]] = {}
        """Node → (name, step) of the points its run already had when it was resumed."""

    def reachable(self) -> bool:
        """Whether MLflow answers."""
        return self.server.reachable()

    def apply(self, event: Event) -> None:
        """Apply one event; events of a run that was never created are skipped. Raises what MLflow raises."""
        # `begin` and `node` create runs; the guard below them skips events whose run could not be created.
        match event["do"]:
            case "begin":
                self._begin(event)
            case "node":
                self._node(event)
            case _ if event["node"] not in self.runs:
                return
            case "metrics":
                self.server.log_lines(self.runs[event["node"]], event["lines"], self._known.get(event["node"], set()))
            case "texts":
                for path, content in event["texts"].items():
                    self.server.client.log_text(self.runs[event["node"]], content, path)
            case "files":
                self._files(event)
            case "model":
                run_id = self.runs[event["node"]]
                self._models[run_id] = create_logged_model(self.server, run_id, event["again"])
            case "end":
                self._end(event)

    def _begin(self, event: Event) -> None:
        tags = dict(event["tags"])
        if event["sweep"]:
            tags[PARENT_TAG] = self._sweep = sweep_run(self.server, event["sweep"], event["sweep_name"], event["time"])
        if INVOCATION_RUN not in self.runs:
            created = self.server.create(event["name"], event["uid"], tags, event["time"], event["again"])
            self.runs[INVOCATION_RUN] = created
        self.server.log_params(self.runs[INVOCATION_RUN], event["settings"], {})

    def _node(self, event: Event) -> None:
        name, tags, known = event["node"], dict(event["tags"]), {}
        if INVOCATION_RUN in self.runs:
            tags[PARENT_TAG] = self.runs[INVOCATION_RUN]
        # A resumed node continues the run of its earlier attempt, unless that was deleted.
        earlier = self.server.run(event["run"]) if event["run"] and name not in self.runs else None
        if earlier:
            known = earlier.data.params
            tags["alma.resumes"] = str(int(earlier.data.tags.get("alma.resumes", "0")) + 1)
            self.server.client.update_run(event["run"], status="RUNNING")
            self.runs[name] = event["run"]
        elif name not in self.runs:
            self.runs[name] = self.server.create(name, event["uid"], tags, event["time"], event["again"])
        # MLflow's parameters cannot change: settings of the resumed attempt that differ become a tag.
        changed = self.server.log_params(self.runs[name], event["settings"], known)
        if changed:
            tags[f"alma.resume.{tags['alma.resumes']}.overrides"] = value_text(changed)
        # Link an evaluation to the run of its checkpoint, if this invocation made it.
        if maker := self.runs.get(event["evaluates"]):
            tags["alma.checkpoint_run"] = maker
        self.server.log_tags(self.runs[name], tags)
        self.server.log_datasets(self.runs[name], event["datasets"])
        self._catch_up(name, event["paths"])
        self._watch_system(name)

    def _catch_up(self, name: str, paths: dict[str, str]) -> None:
        """Log the metrics that an earlier process measured but did not deliver."""
        if "metrics" in paths:
            known = self._known[name] = self.server.known_points(self.runs[name])
            self.server.log_lines(self.runs[name], list(read_lines(Path(paths["metrics"]))), known)

    def _end(self, event: Event) -> None:
        name, run_id = event["node"], self.runs[event["node"]]
        if monitor := self._monitors.pop(name, None):
            monitor.finish()
        # First: a run whose metrics are refused must not stay RUNNING.
        self.server.client.set_terminated(run_id, event["status"], end_time=int(event["time"] * 1000))
        self._catch_up(name, event["paths"])
        # A checkpoint's scores also go to the run and the model that made it.
        line = {"time": event["time"], "step": 0, "metrics": event["metrics"]}
        self.server.log_lines(run_id, [line])
        if maker := self.runs.get(event["repeat_on"]):
            self.server.log_lines(maker, [line], model=self._models.get(maker))
        self.server.log_tags(run_id, event["tags"])
        if name == INVOCATION_RUN and self._sweep:
            end_finished_sweep(self.server, self._sweep)

    def _files(self, event: Event) -> None:
        """Upload redacted copies; files marked `as_is` (weights, which a change would break) are uploaded unchanged."""
        run_id = self.runs[event["node"]]
        for path in map(Path, event["paths"]["files"]):
            if not path.is_file():
                continue  # an event of an earlier process; deleted since
            if event["as_is"]:
                self.server.client.log_artifact(run_id, str(path), event["folder"])
                continue
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / path.name
                with open(path, encoding="utf-8", errors="replace") as source, open(copy, "w", encoding="utf-8") as target:
                    target.writelines(map(redact, source))
                self.server.client.log_artifact(run_id, str(copy), event["folder"])

    def _watch_system(self, name: str) -> None:
        if not self._system_metrics or name in self._monitors:
            return
        # MLflow starts its own monitor only for runs of its fluent interface.
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        uri = self.server.client.tracking_uri
        monitor = SystemMetricsMonitor(self.runs[name], SAMPLING_SECONDS, resume_logging=True, tracking_uri=uri)
        monitor.start()
        self._monitors[name] = monitor


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Complete lines of a metrics.jsonl; none if the file does not exist."""
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))


FORBIDDEN_IN_NAME = re.compile(r"[/:.%\"']")
"""Characters that MLflow forbids in a model's name."""
LINEAGE_TAGS = ("alma.node", "alma.key", "alma.parent_key", "alma.input.")
"""Prefixes of the tags that a model inherits from its run."""


def create_logged_model(server: Server, run_id: str, again: bool) -> str:
    """Create a logged model with the run's parameters and return its id. `again`: an earlier try may have created it.

    Raises what MLflow raises; servers before version 3 have no logged models.
    """
    from mlflow.entities import LoggedModelOutput

    client = server.client
    if again and (found := client.search_logged_models([server.experiment], f"source_run_id = '{run_id}'", max_results=1)):
        return str(found[0].model_id)
    run: Any = client.get_run(run_id)
    tags = {key: value for key, value in run.data.tags.items() if key.startswith(LINEAGE_TAGS)}
    name, kind = FORBIDDEN_IN_NAME.sub("_", run.info.run_name), run.data.tags["alma.stage"]
    model = client.create_logged_model(server.experiment, name, run_id, tags, run.data.params, kind)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)
