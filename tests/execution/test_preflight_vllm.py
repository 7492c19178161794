"""vLLM is looked for before anything runs, and not after what it is to decode has been trained."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alma_pipeline.config import load
from alma_pipeline.errors import UserError
from alma_pipeline.execution import preflight
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.store import Store

VLLM = "stages.translate.engine=vllm"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)


@pytest.fixture
def with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: SimpleNamespace())


def planned(folder: Path, *words: str) -> tuple[Plan, Hardware]:
    settings = load.load(["stage=parallel", *words])
    return make_plan(settings, Store(folder / "store")), settings.hardware


@pytest.mark.usefixtures("without")
def test_a_plan_that_decodes_by_itself_needs_nothing(tmp_path: Path) -> None:
    preflight.check(*planned(tmp_path))


@pytest.mark.usefixtures("without")
def test_all_that_is_missing_is_told_with_who_asks(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        preflight.check(*planned(tmp_path, VLLM))
    package, gpu, asking = str(error.value).splitlines()
    assert "the package vllm is not installed here" in package
    assert "found hardware.device=cpu; use hardware=gpu1 or gpu8" in gpu
    assert asking == "required by base.translate, parallel_scratch.translate, parallel.translate"


@pytest.mark.usefixtures("with_it")
def test_one_machine_with_devices_is_enough_and_several_are_refused(tmp_path: Path) -> None:
    for hardware in ("gpu1", "gpu8"):
        preflight.check(*planned(tmp_path, VLLM, f"hardware={hardware}"))
    with pytest.raises(UserError, match=r"found hardware.launcher=slurm and nodes=2; run the command again there"):
        preflight.check(*planned(tmp_path, VLLM, "hardware=slurm"))


@pytest.mark.parametrize("kind", ["translate", "translate_text", "preferences"])
def test_it_is_one_process_on_any_hardware(kind: str) -> None:
    """The launcher starts one where `distributed` is false; tensor parallelism is vLLM's own."""
    assert kind_config(kind)().distributed
    vllm: dict[str, Any] = {"engine": "vllm"}
    assert not kind_config(kind)(**vllm).distributed
