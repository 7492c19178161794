"""What a layer keeps for its backward pass: the estimate against a real forward pass, to the byte."""

import dataclasses
from typing import Any

import pytest

from alma_pipeline.plan.estimates import model_size
from alma_pipeline.schema import Architecture, Lora

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TINY = Architecture(hidden_size=256, intermediate_size=688, layers=4, heads=4, kv_heads=4, vocab_size=2000, tied_embeddings=True)
ADAPTERS = {
    "full": None,
    "all matrices": Lora(rank=32, targets=ALL),
    "all matrices, dropout": Lora(rank=32, targets=ALL, dropout=0.05),
    "down_proj": Lora(rank=16, targets=["down_proj"]),
    "queries and gate": Lora(rank=8, targets=["q_proj", "gate_proj"]),
}


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_layer_keeps_what_autograd_keeps(adapter: str, precision: str, kv_heads: int) -> None:
    """To the byte: the difference that two more layers make to the tensors saved in a real forward pass."""
    shape, lora = dataclasses.replace(TINY, kv_heads=kv_heads, layers=1), ADAPTERS[adapter]
    two, four = (saved_bytes(dataclasses.replace(shape, layers=layers), precision, lora) for layers in (2, 4))
    assert (four - two) / 2 == model_size.activation_bytes(shape, precision, lora)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_zero_3_keeps_the_inputs_of_frozen_matrices_too(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts a linear of its own in the place of torch's."""
    import torch
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)
    lora, one = ADAPTERS[adapter], dataclasses.replace(TINY, layers=1)
    two, four = (saved_bytes(dataclasses.replace(TINY, layers=layers), "fp32", lora) for layers in (2, 4))
    found = model_size.activation_bytes(one, "fp32", lora, zero_stage=3)
    assert (four - two) / 2 == found
    assert (found > model_size.activation_bytes(one, "fp32", lora, zero_stage=2)) == (adapter not in ("full", "all matrices"))


def test_recomputing_keeps_the_inputs_of_the_layers_and_one_layer_in_full() -> None:
    two, four = (saved_bytes(dataclasses.replace(TINY, layers=layers), "fp32", None, recompute=True) for layers in (2, 4))
    assert (four - two) / 2 == 4 * TINY.hidden_size
    one = model_size.activation_bytes(dataclasses.replace(TINY, layers=1), "fp32")
    assert model_size.activation_bytes(TINY, "fp32", recompute=True) == TINY.layers * 4 * TINY.hidden_size + one


def saved_bytes(shape: Architecture, precision: str, lora: Lora | None, recompute: bool = False) -> float:
    """Bytes for each token that autograd holds after a forward pass of a real model, its weights aside."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    net: Any = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            vocab_size=shape.vocab_size,
            tie_word_embeddings=True,
        )
    ).to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    if lora:
        settings = LoraConfig(r=lora.rank, lora_dropout=lora.dropout, target_modules=lora.targets, task_type="CAUSAL_LM")
        net = get_peft_model(net, settings, autocast_adapter_dtype=False)
    if recompute:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    ids = torch.randint(0, shape.vocab_size, (4, 32))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(input_ids=ids, use_cache=False)
    assert result.logits.requires_grad
    return sum(storage.nbytes() for storage in kept.values()) / ids.numel()
