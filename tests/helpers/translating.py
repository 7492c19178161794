"""The verb `translate` on a store of tiny checkpoints, with a worker in this process, whose start is what takes long."""

import importlib
import io
import shutil
from pathlib import Path

import pytest

from alma_pipeline.cli import main
from alma_pipeline.execution import one_off
from alma_pipeline.files import write_json
from alma_pipeline.job import read_job
from alma_pipeline.plan.plan import Step
from alma_pipeline.store.store import Store

SETTINGS = [
    "stage=mono",
    "data.languages=[de,ru,sv,uk]",
    "evaluation.max_new_tokens=4",
    "evaluation.num_beams=2",
    "tracking=none",
]


def command(root: Path, monkeypatch: pytest.MonkeyPatch, *words: str, given: str = "") -> int:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(root))
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "translate", *words])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    return main.main()


def put(store: Store, step: Step, folder: Path, form: str = "") -> None:
    """A folder as the artifact of a node, without making it; `form`: of a checkpoint."""
    name, key = step.node.name, step.key
    work = store.begin(name, key)
    shutil.copytree(folder, work.path / "out")
    record = {"name": name, "key": key, "kind": step.node.kind, "payload": step.payload, "seconds": 1.0}
    record |= {"result": {} if form else {"counts": {"train_examples": 8}}}
    loading = {"form": form, "base_key": key, "adapter_keys": []} if form else {}
    store.commit(work, record | {"created": "2026-01-01", "checkpoint": loading})
    work.close()


class Ended:
    """A worker that has done its job."""

    def poll(self) -> int:
        return 0

    def stop(self) -> None:
        pass


def work_here(hardware: object, work: Path, token: str, distributed: bool) -> Ended:
    """In place of `start_without_server`: runs the job in this process."""
    job = read_job(work / "job.json")
    write_json(work / "result.json", importlib.import_module(f"stages.{job.config.kind}.run").run(job))
    return Ended()


def start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a test fails that starts a worker."""
    monkeypatch.setattr(one_off, "start_without_server", lambda *words: pytest.fail("nothing is decoded"))
