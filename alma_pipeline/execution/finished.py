"""What the record of a finished node says: its result, where and how it was made, and how its checkpoint is loaded."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.execution import restart
from alma_pipeline.job import Job
from alma_pipeline.plan.plan import Step


def content(step: Step, job: Job, provenance: dict[str, Any]) -> dict[str, Any]:
    """The record of a node whose worker has written its result, as far as the store does not add to it."""
    work = Path(job.work)
    run, written = work / "mlflow_run", work / "result.json"
    # The worker writes its result last, so the times of two files give the duration even if the parent was restarted.
    result = json.loads(written.read_text(encoding="utf-8"))
    return {
        "name": step.node.name,
        "key": step.key,
        "kind": step.config.kind,
        "payload": step.payload,
        "result": result,
        "created": instants.now(),
        "seconds": round(written.stat().st_mtime - (work / "job.json").stat().st_mtime, 2),
        "provenance": provenance | restart.provenance(work),
        "hardware": dataclasses.asdict(job.hardware),
        "checkpoint": checkpoint_entry(step.key, job, result),
        "mlflow_run": run.read_text(encoding="utf-8").strip() if run.exists() else "",
    }


def checkpoint_entry(key: str, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """How to load the checkpoint a node made: keys of its base and of the adapters on it, in order (B14).

    A full model is its own base. A continued adapter replaces its parent; a new one is added after it. Empty if the
    node made no checkpoint.
    """
    form = result.get("checkpoint", {}).get("form")
    if form is None:
        return {}
    if form == "full":
        return {"form": "full", "base_key": key, "adapter_keys": []}
    parent = job.inputs["init"]
    before = parent.adapter_keys[:-1] if job.config.adapter == "continue" else parent.adapter_keys
    return {"form": "adapter", "base_key": parent.base_key, "adapter_keys": [*before, key]}
