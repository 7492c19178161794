"""`group_adapter` for real on a tiny model: a LoRA on a frozen base, taken further by the next node."""

from pathlib import Path

import torch

from alma_pipeline.ml.models.open import load_for_inference
from helpers.tiny_model import ADAPTER, as_input, files, logged, make_base, make_documents, make_job, weights
from stages.group_adapter.run import run


def test_group_adapter_trains_one_module_over_two_nodes(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    frozen = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    inputs = {"init": base, "corpus": make_documents(tmp_path / "documents")}
    first = make_job(tmp_path / "first", "group_adapter", inputs)
    result = run(first)
    assert files(first.out) == ADAPTER
    assert result["checkpoint"] == {"form": "adapter"}
    assert len(logged(first, "train/loss")) == 6
    assert result["trained_parameters"] < result["parameters"]

    pseudo = inputs | {"init": as_input(first, result), "corpus": make_documents(tmp_path / "joined", seed=7)}
    second = make_job(tmp_path / "second", "group_adapter", pseudo, adapter="continue")
    continued = run(second)
    before, after = weights(first.out), weights(second.out)
    assert set(before) == set(after)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == frozen
    model, _ = load_for_inference(as_input(second, continued), second.hardware, "fp32")
    moved = weights(tmp_path / "base")["model.layers.0.mlp.down_proj.weight"]
    assert not torch.equal(model.model.layers[0].mlp.down_proj.weight, moved)
