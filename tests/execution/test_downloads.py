"""Scorers are downloaded before anything runs: once, with all that scoring needs, by a hub on this machine."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from alma_pipeline.errors import UserError
from alma_pipeline.execution import downloads
from alma_pipeline.ml.scoring.comet import score
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.schema import Neural, Source
from alma_pipeline.schema.kinds import kind_config
from helpers.comet import hardware, neural, scored, segments
from helpers.fake_hub import FakeHub
from stages.preferences.config import Config as Preferences

MODEL, ENCODER = "someone/comet", "someone/encoder"
SCORER = Neural(model=MODEL)


@pytest.fixture
def hub(tmp_path: Path, comet_models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """It has a COMET model, and the repository of its encoder with weights that nobody needs. The cache is empty."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    settings = yaml.safe_load((comet_models / "regression" / "hparams.yaml").read_text()) | {"pretrained_model": ENCODER}
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        weights = (comet_models / "regression" / "checkpoints" / "model.ckpt").read_bytes()
        hub.models[MODEL] = {"checkpoints/model.ckpt": weights, "hparams.yaml": yaml.safe_dump(settings).encode()}
        encoder = {path.name: path.read_bytes() for path in (comet_models / "bert").iterdir()}
        hub.models[ENCODER] = {**encoder, "model.safetensors": b"never taken"}
        yield hub


def test_a_scorer_is_downloaded_once_and_then_scores_without_a_network(
    tmp_path: Path, hub: FakeHub, comet_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    for _ in range(2):
        downloads.download({"one": SCORER, "same": SCORER, "local": Neural(model="/a.ckpt")}, hardware(), told.append)
    assert told == ["downloading the scorer someone/comet, once"]
    assert len(hub.taken) == len(set(hub.taken)) and hub.taken[-1] == f"{MODEL}/checkpoints/model.ckpt"
    assert f"{ENCODER}/config.json" in hub.taken and f"{ENCODER}/model.safetensors" not in hub.taken
    hub.models.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = score(SCORER, segments(5), hardware(), SegmentCache(tmp_path / "a.db"), lambda done, total: None)
    local = scored(neural(comet_models, "regression"), segments(5), tmp_path / "b.db")
    assert found.scores == local.scores and found.signature.startswith("someone/comet@1111")


def test_two_commands_at_once_download_each_file_once(hub: FakeHub) -> None:
    both = [threading.Thread(target=downloads.download, args=({"one": SCORER}, hardware(), print)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert downloads.is_cached(MODEL, "main") and len(hub.taken) == len(set(hub.taken))


def test_a_scorer_that_cannot_be_had_is_named_before_anything_runs(hub: FakeHub) -> None:
    """B47."""
    with pytest.raises(UserError, match=r"https://huggingface\.co/someone/else does not exist, or is private"):
        downloads.download({"one": Neural(model="someone/else")}, hardware(), print)


@pytest.mark.parametrize("kind", ["base", "released", "corpus", "score", "system_outputs"])
def test_every_other_kind_that_downloads_runs_in_one_process(kind: str) -> None:
    assert not kind_config(kind)().distributed


def test_so_do_preferences_that_are_read_from_a_release() -> None:
    assert Preferences().distributed
    assert not Preferences(pairs=Source(reader="hub", repo="someone/pairs")).distributed
