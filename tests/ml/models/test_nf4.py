"""4-bit bases: what is said without the package, and with it that an adapter stays with the weights it was trained on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.checkpoints import gather_state, write_checkpoint
from alma_pipeline.ml.models.load import BASE_FILE, load_base_model
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


def test_training_on_4_bits_and_what_becomes_of_the_adapter(tmp_path: Path, base: Input) -> None:
    """Trained through DeepSpeed; decoded on the rounded weights; refused on the ones they were rounded from (B15)."""
    from stages.parallel.run import run

    inputs = {"init": base, "corpus": make_pairs(tmp_path / "corpus")}
    job = make_job(tmp_path / "work", "parallel", inputs, adapter="new", quantization="nf4")
    made = as_input(job, run(job))
    assert json.loads((job.out / BASE_FILE).read_text())["quantization"] == "nf4"
    packed = open_for_training(made, asking(adapter="continue"), CPU, 0.0).model
    whole = load_merged(made, made.adapters, "fp32")
    assert torch.allclose(logits(packed), logits(whole), atol=1e-4)
    with pytest.raises(UserError, match="quantization is nf4 there and none in the settings"):
        open_for_training(made, asking(adapter="continue", quantization="none"), CPU, 0.0)
    (job.out / BASE_FILE).write_text(json.dumps({"base_key": base.key, "merged": []}))  # as if it were an ordinary adapter
    unrounded = load_merged(made, made.adapters, "fp32")
    assert float((logits(unrounded) - logits(packed)).abs().max()) > 1e-3, "the rounding must matter"


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_an_adapter_is_merged_into_the_weights_it_was_trained_on_to_the_bit(
    tmp_path: Path, base: Input, stored: torch.dtype, precision: str
) -> None:
    """The precision that the base was rounded from is in base.json: from another one, every scale differs (B15)."""
    AutoModelForCausalLM.from_pretrained(base.base, dtype=stored).save_pretrained(base.base)
    trainee = open_for_training(base, asking(precision=precision), CPU, 0.0)
    trained_on = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): dequantize_4bit(
            module.weight, module.weight.quant_state
        )
        for name, module in trainee.model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    assert len(trained_on) > 10
    folder = tmp_path / "adapter"
    write_checkpoint(trainee, gather_state(trainee, first=True), folder, moved=False)
    assert json.loads((folder / BASE_FILE).read_text())["quantized_from"] == precision
    under = dict(load_base_model(dataclasses.replace(base, adapters=[str(folder)])).named_parameters())
    for name, weights in trained_on.items():
        assert torch.equal(under[f"{name}.weight"], weights.float()), name


def test_training_continues_after_an_evaluation_on_every_cpu(base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AVX-512 BF16 bitsandbytes packs matrices at the first evaluation, for a kernel without a gradient."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(bitsandbytes.nn.modules, "_convert_weight_packed_for_cpu", lambda *words: pytest.fail("it is packed"))
    model = open_for_training(base, asking(), CPU, 0.0).model
    logits(model)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
