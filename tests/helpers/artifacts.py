"""Artifacts made by the store's own protocol, without a worker."""

from typing import Any

from alma_pipeline import instants
from alma_pipeline.plan.plan import Plan
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store


def put(store: Store, name: str, key: str, record: dict[str, Any] | None = None, files: dict[str, str] | None = None) -> Record:
    """An artifact made by the store's own protocol, without a worker."""
    work = store.begin(name, key)
    try:
        out = work.path / "out"
        out.mkdir()
        for file, text in (files or {"text.txt": name}).items():
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_text(text)
        plain = {
            "name": name,
            "key": key,
            "kind": "fake",
            "payload": {"kind": "fake", "version": 1, "config": {}, "inputs": {}},
            "result": {},
            "created": instants.now(),
            "seconds": 1.0,
        }
        return store.commit(work, plain | (record or {}))
    finally:
        work.close()


COUNTS = {"train_examples": 640, "train_tokens": 12_400, "dev_examples": 10}


def fill(store: Store, planned: Plan, *names: str) -> None:
    """Make the artifacts of a plan's steps, all of them or those named, as their workers would have."""
    for step in planned.steps:
        if step.works and (not names or step.node.name in names):
            result = {"counts": COUNTS} if step.node.kind in ("corpus", "preferences") else {}
            put(store, step.node.name, step.key, {"kind": step.node.kind, "payload": step.payload, "result": result})
