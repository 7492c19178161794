"""vLLM is looked for before anything runs, and not after what it is to decode has been trained."""

import sys
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline import paths
from alma_pipeline.config import load
from alma_pipeline.errors import UserError
from alma_pipeline.execution import preflight
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.store import Store

VLLM = "stages.translate.engine=vllm"


def planned(folder: Path, *words: str) -> tuple[Plan, Hardware]:
    settings = load.load(["stage=parallel", *words])
    return make_plan(settings, Store(folder / "store")), settings.hardware


def test_a_plan_that_decodes_by_itself_needs_nothing(tmp_path: Path) -> None:
    preflight.check(*planned(tmp_path, "decoding.vllm.python=/nowhere/python"))


def test_all_that_is_missing_is_told_with_who_asks(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        preflight.check(*planned(tmp_path, VLLM, "hardware=slurm", "decoding.vllm.python=/nowhere/python"))
    environment, machine, asking = str(error.value).splitlines()
    assert "expected at /nowhere/python but does not exist. Run `make vllm`, or set decoding.vllm.python" in environment
    assert "found hardware.launcher=slurm and nodes=2; run the command again there" in machine
    assert asking == "required by base.translate, parallel_scratch.translate, parallel.translate"


@pytest.mark.parametrize("hardware", ["cpu", "cpu2", "gpu1", "gpu8"])
def test_one_machine_is_enough_with_or_without_devices(tmp_path: Path, hardware: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interpreter is one that is given, or what `make vllm` has installed."""
    preflight.check(*planned(tmp_path, VLLM, f"hardware={hardware}", f"decoding.vllm.python={sys.executable}"))
    monkeypatch.setattr(paths, "VLLM_PYTHON", tmp_path / "python")
    with pytest.raises(UserError, match="Run `make vllm`"):
        preflight.check(*planned(tmp_path, VLLM, f"hardware={hardware}"))
    (tmp_path / "python").touch()
    preflight.check(*planned(tmp_path, VLLM, f"hardware={hardware}"))


@pytest.mark.parametrize("kind", ["translate", "translate_text", "preferences"])
def test_it_is_one_process_on_any_hardware(kind: str) -> None:
    """The launcher starts one where `distributed` is false; its devices are vLLM's own."""
    assert kind_config(kind)().distributed
    vllm: dict[str, Any] = {"engine": "vllm"}
    assert not kind_config(kind)(**vllm).distributed
