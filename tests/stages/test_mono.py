"""`mono` for real on a tiny model: all weights move, and what is left is a plain model folder."""

from pathlib import Path

import pytest
import torch

from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.schema import Training
from helpers.tiny_model import FULL, as_input, files, logged, make_base, make_documents, make_job, weights
from stages.group_adapter.config import Config as GroupAdapter
from stages.mono.config import Config
from stages.mono.run import run


def test_mono_trains_all_weights(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    job = make_job(tmp_path / "work", "mono", {"init": base, "corpus": make_documents(tmp_path / "documents")})
    result = run(job)
    assert files(job.out) == FULL
    assert result["checkpoint"] == {"form": "full"}
    assert len(logged(job, "train/loss")) == result["steps"] == 6
    before, after = weights(tmp_path / "base"), weights(job.out)
    assert set(before) == set(after)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert load_for_inference(as_input(job, result), job.hardware, "fp32")[0].config.vocab_size == 64


def test_mono_learns_to_count(tmp_path: Path) -> None:
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_documents(tmp_path / "documents", blocks=128)}
    job = make_job(
        tmp_path / "work", "mono", inputs, {"micro_batch_tokens": 256}, steps=60, global_batch_size=16, learning_rate=2e-2
    )
    result = run(job)
    assert result["after"]["loss"] < 0.7 * result["before"]["loss"]
    assert result["after"]["bits_per_byte"] / result["before"]["bits_per_byte"] == pytest.approx(
        result["after"]["loss"] / result["before"]["loss"]
    )
    assert result["tokens"] == 60 * 16 * 16
    assert result["labels"] == 60 * 16 * 15


@pytest.mark.parametrize("config", [Config, GroupAdapter])
def test_blocks_of_text_have_no_translations_to_choose_by(config: type[Training]) -> None:
    """Told when the configuration is read, not when the stage begins."""
    [said] = config(steps=1, select_by="dev_score", adapter="new").conflicts()
    assert said.startswith("select_by=dev_score needs translations")
    assert list(config(steps=1, select_by="dev_loss", adapter="new").conflicts()) == []
