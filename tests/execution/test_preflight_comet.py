"""Neural scorers that cannot be had are named before anything runs (B47)."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.execution import preflight
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Hardware
from alma_pipeline.store.store import Store


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub cache of its own, and no credentials; huggingface_hub reads the environment once, at import."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hf"


def planned(tmp_path: Path, *words: str) -> tuple[Plan, Hardware]:
    (tmp_path / "python").write_text("")
    settings = load.load(["stage=parallel", f"evaluation.comet.python={tmp_path}/python", *words])
    return make_plan(settings, Store(tmp_path / "store")), settings.hardware


def test_a_plan_without_neural_metrics_needs_nothing(tmp_path: Path) -> None:
    plan, hardware = planned(tmp_path)
    preflight.check(plan, replace(hardware, comet_python="/nowhere"))


def test_comet_s_python_is_looked_for_first(tmp_path: Path) -> None:
    plan, hardware = planned(tmp_path, "evaluation.comet.models=[comet-22]")
    with pytest.raises(UserError, match=r"expected at /nowhere but does not exist. Run `make comet`"):
        preflight.check(plan, replace(hardware, comet_python="/nowhere"))
    preflight.check(plan, hardware)


def test_every_missing_licence_and_lack_of_memory_is_named_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, hardware = planned(tmp_path, "evaluation.comet.models=[kiwi-22,xcomet-xxl]")
    monkeypatch.setattr(preflight, "machine_gb", lambda: 16.8)
    with pytest.raises(UserError) as error:
        preflight.check(plan, hardware)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "kiwi-22" in lines[0] and "https://huggingface.co/Unbabel/wmt22-cometkiwi-da and set HF_TOKEN" in lines[0]
    assert "xcomet-xxl: Unbabel/XCOMET-XXL in fp16 needs about 87.6 GB, but this machine has 16.8; use" in lines[1]
    with pytest.raises(UserError, match=r"XXL in fp16 needs about 23\.4 GB, but hardware\.memory_gb is 16"):
        preflight.check(plan, replace(hardware, memory_gb=16, device="cuda"))


def test_a_name_that_no_repository_can_have_is_refused_in_the_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.comet-22\.model=a/b/c: expected OWNER/NAME"):
        planned(tmp_path, "evaluation.comet.models=[comet-22]", "scorers.comet-22.model=a/b/c")


def test_a_token_or_a_cached_model_is_enough(tmp_path: Path, no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, hardware = planned(tmp_path, "evaluation.comet.models=[kiwi-22]")
    folder = no_hub / "hub/models--Unbabel--wmt22-cometkiwi-da"
    checkpoint = folder / "snapshots/abc/checkpoints/model.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("")
    with pytest.raises(UserError, match="is gated: accept its licence"):
        preflight.check(plan, hardware)  # abc is not known to be main, which is what would be fetched
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    preflight.check(plan, hardware)
    checkpoint.unlink()
    for way in ("a variable", "hf auth login"):
        if way == "a variable":
            monkeypatch.setenv("HF_TOKEN", "token")
        else:
            monkeypatch.delenv("HF_TOKEN")
            (no_hub / "token").write_text("token")
        preflight.check(plan, hardware)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"is not in .* and HF_HUB_OFFLINE is set"):
        preflight.check(plan, hardware)
