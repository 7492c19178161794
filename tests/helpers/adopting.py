"""Plans that adopt checkpoints, carried out in this process."""

import importlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alma_pipeline.cli import adopt
from alma_pipeline.cli.arguments import parse
from alma_pipeline.config import load
from alma_pipeline.execution.runner import Runner
from alma_pipeline.files import write_json
from alma_pipeline.job import read_job
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Hardware
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

HARDWARE = Hardware(name="test", threads=1)
ALONE = ["evaluation.checkpoints=[]", "evaluation.controls={}", "tracking=none"]


class Done:
    def poll(self) -> int:
        return 0

    def stop(self) -> None: ...


class InProcess:
    """Does a job at once, here: what a worker does of it, without the process."""

    def __init__(self, *given: object) -> None: ...

    def start(self, work: Path, token: str, distributed: bool) -> Done:
        job = read_job(work / "job.json")
        write_json(work / "result.json", importlib.import_module(f"stages.{job.config.kind}.run").run(job))
        return Done()

    def close(self) -> None: ...


def run(store: Store, plan: Plan) -> dict[str, Record]:
    runner = Runner(store, HARDWARE, InProcess(), [], {})  # type: ignore[arg-type]
    runner.run(plan)
    return runner.done


def planned(store: Store, *words: str) -> Plan:
    return make_plan(load.load([*words, *ALONE]), Store(store.root))


def logits(folder: Path | str, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids=ids).logits
    return found


IDS = torch.tensor([[0, 5, 9, 17, 33]])


def take(store: Store, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(store.root))
    monkeypatch.setattr(adopt, "Launcher", InProcess)
    assert adopt.main(parse(["adopt", *words, *ALONE])) == 0


def as_pointer(file: Path) -> None:
    """As a clone without `git lfs pull` leaves it."""
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n")
