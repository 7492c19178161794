"""`parallel` for real on a tiny model: all weights, a fresh LoRA, and a LoRA that goes on."""

from pathlib import Path

import torch

from helpers.tiny_model import ADAPTER, FULL, as_input, files, logged, make_base, make_job, make_pairs, weights
from stages.parallel.run import run


def test_parallel_trains_all_weights(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    job = make_job(tmp_path / "work", "parallel", {"init": base, "corpus": make_pairs(tmp_path / "pairs")})
    result = run(job)
    assert files(job.out) == FULL
    assert result["checkpoint"] == {"form": "full"}
    assert len(logged(job, "train/loss")) == 6
    before, after = weights(tmp_path / "base"), weights(job.out)
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_parallel_trains_a_lora_on_a_frozen_parent(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    frozen = (tmp_path / "base/model.safetensors").read_bytes()
    inputs = {"init": base, "corpus": make_pairs(tmp_path / "pairs")}
    job = make_job(tmp_path / "first", "parallel", inputs, adapter="new")
    result = run(job)
    assert files(job.out) == ADAPTER
    assert result["checkpoint"] == {"form": "adapter"}
    assert result["trained_parameters"] == sum(tensor.numel() for tensor in weights(job.out).values())
    assert all(tensor.any() for tensor in weights(job.out).values())
    assert (tmp_path / "base/model.safetensors").read_bytes() == frozen

    further = make_job(tmp_path / "second", "parallel", inputs | {"init": as_input(job, result)}, adapter="continue")
    continued = run(further)
    before, after = weights(job.out), weights(further.out)
    assert set(before) == set(after)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert continued["before"]["loss"] == result["after"]["loss"]
    assert len(as_input(further, continued).adapters) == 1


def test_parallel_learns_to_copy(tmp_path: Path) -> None:
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_pairs(tmp_path / "pairs", count=200)}
    settings = {"steps": 60, "global_batch_size": 16, "learning_rate": 2e-2, "select_by": "dev_score"}
    job = make_job(tmp_path / "work", "parallel", inputs, {"micro_batch_tokens": 256}, **settings)
    result = run(job)
    assert result["after"]["loss"] < 0.9 * result["before"]["loss"]
    assert result["after"]["score"] == max(found["score"] for found in result["evaluations"])
