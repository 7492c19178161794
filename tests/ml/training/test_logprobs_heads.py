"""Which models' logits are a product of states and head, and logits at labels alone of those whose are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from alma_pipeline.ml.models.causal import head_of
from alma_pipeline.ml.training import logprobs

VOCABULARY = 60
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = SHAPE | {"intermediate_size": 24, "num_key_value_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("product", ROTARY),
    "Phi3": ("product", ROTARY),
    "OPT": ("product", SHAPE | {"ffn_dim": 24, "word_embed_proj_dim": 8}),
    "Bloom": ("product", SHAPE),
    "GPTNeoX": ("product", SHAPE | {"intermediate_size": 24}),
    "Mixtral": ("product", ROTARY),
    "Gemma2": ("own", ROTARY | {"head_dim": 8}),
    "Cohere": ("own", ROTARY),
    "Granite": ("own", ROTARY | {"logits_scaling": 4.0}),
}
OWN = [name for name, (head, _) in EXPECTED.items() if head == "own"]


def make(name: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(EXPECTED[name][1] | SPECIAL | changes))
    model: PreTrainedModel = getattr(transformers, f"{name}ForCausalLM")(config)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_found_by_trying(name: str, dtype: torch.dtype) -> None:
    model = make(name).to(dtype).train()
    assert logprobs.choose_head(model) == EXPECTED[name][0]
    assert model.training


def test_a_scale_of_one_is_none() -> None:
    assert logprobs.choose_head(make("Granite", logits_scaling=1.0)) == "product"


@pytest.mark.parametrize(("name", "expected"), [("Llama", "product"), ("Gemma2", "own")])
def test_an_adapter_changes_nothing_of_it(name: str, expected: str) -> None:
    model = get_peft_model(make(name), LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    assert logprobs.choose_head(model) == expected


def test_a_model_without_a_head_of_its_own_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Llama")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with pytest.raises(AttributeError, match="LlamaForCausalLM has no output embeddings"):
        head_of(model)
    assert logprobs.choose_head(model) == "own"


class Seen:
    """How many states a head was given."""

    def __init__(self, head: nn.Module) -> None:
        self.count = 0
        head.register_forward_hook(self)

    def __call__(self, head: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> None:
        self.count += given[0].shape[:-1].numel()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    ("places", "states"),
    [([2, 3, 4, 9, 16, 17], 12), ([17, 2], 4), ([], 0), ([5] * 3, 2)],  # two rows of nine: each column is made for both
)
def test_own_logits_are_the_models_at_labels_alone(name: str, places: list[int], states: int) -> None:
    model = make(name).eval()
    inputs = {"input_ids": torch.randint(0, VOCABULARY, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    positions = torch.tensor(places, dtype=torch.long)
    whole = model(**inputs).logits.flatten(0, 1).index_select(0, positions)
    seen = Seen(model.lm_head)
    found = logprobs.model_logits(model, inputs, positions)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    assert seen.count == states


def test_a_forward_that_leaves_nothing_out_is_cut_after_it() -> None:
    """Its logits are doubled, which no product of its head and states is."""
    model = make("Llama").eval()
    theirs: Callable[..., Any] = model.forward

    def forward(input_ids: Tensor, use_cache: bool | None = None) -> Any:
        output = theirs(input_ids=input_ids, use_cache=use_cache)
        output.logits = 2 * output.logits
        return output

    model.forward = forward
    assert logprobs.choose_head(model) == "own"
    ids, positions = torch.randint(0, VOCABULARY, (2, 9)), torch.tensor([3, 10])
    expected = 2 * theirs(input_ids=ids).logits.flatten(0, 1)[positions]
    torch.testing.assert_close(logprobs.model_logits(model, {"input_ids": ids}, positions), expected)
