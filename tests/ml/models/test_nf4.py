"""4-bit bases: what is said without the package, and with it that an adapter stays with the weights it was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.load import BASE_FILE
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.schema import Hardware, Training
from helpers.tiny_model import LORA, as_input, make_base, make_job, make_pairs

CPU = Hardware(name="test", threads=1)
IDS = torch.tensor([[0, 5, 9, 17, 33]])


def asking(**settings: Any) -> Training:
    values: dict[str, Any] = {"kind": "test", "steps": 1, "adapter": "new", "lora": LORA, "seed": 3, "quantization": "nf4"}
    return Training(**(values | settings))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.fixture
def base(tmp_path: Path) -> Input:
    return make_base(tmp_path / "base", tied=False)


def test_without_the_package_the_way_to_it_is_named(base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"needs the package bitsandbytes.*alma_pipeline\[4bit\].*quantization=none"):
        open_for_training(base, asking(), CPU, 0.0)


def test_it_freezes_what_it_rounds() -> None:
    assert list(asking().conflicts()) == []
    for adapter in ("none", "merge_then_new"):
        [said] = asking(adapter=adapter).conflicts()
        assert f"needs adapter=new or continue; found adapter={adapter}" in said


def test_training_on_4_bits_and_what_becomes_of_the_adapter(tmp_path: Path, base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained through DeepSpeed; decoded on the rounded weights; refused on the ones they were rounded from (B15)."""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="an optional package")
    # On a CPU with AVX-512 BF16 it packs weights for a kernel of its own, which wants matrices with rows in multiples of 32.
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    from stages.parallel.run import run

    inputs = {"init": base, "corpus": make_pairs(tmp_path / "corpus")}
    job = make_job(tmp_path / "work", "parallel", inputs, adapter="new", quantization="nf4")
    made = as_input(job, run(job))
    assert json.loads((job.out / BASE_FILE).read_text())["quantization"] == "nf4"
    packed = open_for_training(made, asking(adapter="continue"), CPU, 0.0).model
    whole = load_merged(made, made.adapters, "fp32")
    assert torch.allclose(logits(packed), logits(whole), atol=1e-4)
    with pytest.raises(UserError, match="'quantization': 'nf4'"):
        open_for_training(made, asking(adapter="continue", quantization="none"), CPU, 0.0)
    (job.out / BASE_FILE).write_text(json.dumps({"base_key": base.key, "merged": []}))  # as if it were an ordinary adapter
    unrounded = load_merged(made, made.adapters, "fp32")
    assert float((logits(unrounded) - logits(packed)).abs().max()) > 1e-3, "the rounding must matter"
