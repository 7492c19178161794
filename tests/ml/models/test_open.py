"""Adapters of every kind that PEFT trains as LoRA are merged, continued and written as PEFT itself would."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.checkpoints import gather_state, write_checkpoint
from alma_pipeline.ml.models.load import BASE_FILE
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.schema import Hardware, Lora, Training
from helpers.tiny_adapter import make_adapter
from helpers.tiny_model import make_base

TARGETS = ["q_proj", "down_proj"]
IDS = torch.arange(3, 23)[None]
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "tokens": {"trainable_token_indices": [3, 4]},
    "norms": {"modules_to_save": ["norm"]},
    "lora biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    """A Llama with biases, whose two ends are separate."""
    torch.set_num_threads(1)
    made = make_base(tmp_path_factory.mktemp("base"), tied=False)
    config = LlamaConfig.from_pretrained(made.path, attention_bias=True, mlp_bias=True)
    LlamaForCausalLM(config).save_pretrained(made.path)
    return made


@pytest.fixture(scope="module", params=KINDS)
def adapted(base: Input, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Input:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"), 1, 4, TARGETS, **KINDS[request.param])


def theirs(base: Input, folder: str) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), folder, is_trainable=True).eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def step(model: nn.Module) -> None:
    """One step of gradient descent on everything that is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(input_ids=IDS, labels=IDS).loss.backward()
    torch.optim.SGD(trained, lr=0.1).step()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


def test_merging_equals_peft_s_model(base: Input, adapted: Input) -> None:
    expected = logits(theirs(base, adapted.path))
    assert close(logits(load_merged(adapted, adapted.adapters, "fp32")), expected)
    assert not close(logits(AutoModelForCausalLM.from_pretrained(base.path)), expected), "the adapter must matter"


def test_continuing_equals_peft_s_training(base: Input, adapted: Input, tmp_path: Path) -> None:
    """After a step, and after what it leaves has been written, read and merged."""
    settings = Training(kind="test", steps=1, seed=1, adapter="continue", lora=Lora(rank=4, alpha=8.0, targets=TARGETS))
    ours, peft = open_for_training(adapted, settings, Hardware(name="test"), 0.0), theirs(base, adapted.path)
    before = logits(peft)
    assert close(logits(ours.model), before)
    for model in (ours.model, peft):
        step(model)
    after = logits(peft)
    assert close(logits(ours.model), after) and not close(after, before)
    write_checkpoint(ours, gather_state(ours, first=True), tmp_path / "out", moved=True)
    written = Input("w" * 64, "test", str(tmp_path / "out"), {}, base.path, base.key, [str(tmp_path / "out")], ["w" * 64])
    assert json.loads((tmp_path / "out" / BASE_FILE).read_text())["base_key"] == base.key
    assert close(logits(load_merged(written, written.adapters, "fp32")), after)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_lacks_any_tensor_is_refused(base: Input, tmp_path: Path, kind: str) -> None:
    """A bias or a whole module as well: the base's would serve in its place, unseen."""
    made = make_adapter(base, tmp_path, 1, 4, TARGETS, **KINDS[kind])
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    last = max(tensors, key=lambda name: ("lora_" not in name, "magnitude" in name, name))
    save_file({name: tensor for name, tensor in tensors.items() if name != last}, file, {"format": "pt"})
    with pytest.raises(PipelineError, match=f"missing .*{re.escape(last)}"):
        load_merged(made, made.adapters, "fp32")
