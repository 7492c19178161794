"""Tiny random models of eight architectures, items for their rows, and the log-probabilities that a model gives these."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from alma_pipeline.ml.training.layouts import Item, Rows, packed, padded
from alma_pipeline.ml.training.logprobs import label_logprobs

VOCABULARY = 50
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = SHAPE | {"intermediate_size": 24, "num_key_value_heads": 2}
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("packed", ROTARY),
    "Mistral": ("packed", ROTARY | {"sliding_window": 5}),
    "Qwen3": ("packed", ROTARY | {"head_dim": 8}),
    "OPT": ("packed", SHAPE | {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "Gemma3": ("packed", ROTARY | {"head_dim": 8, "sliding_window": 5}),
    "Bloom": ("padded", SHAPE),
    "Falcon": ("padded", SHAPE),
    "Mpt": ("padded", {"vocab_size": VOCABULARY, "d_model": 16, "n_layers": 2, "n_heads": 4}),
}
CONFIGS = {"Gemma3": "Gemma3TextConfig"}
"""Where the name is not the model's."""
PACKED = [name for name, (layout, _) in EXPECTED.items() if layout == "packed"]


def make(name: str) -> PreTrainedModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = getattr(transformers, CONFIGS.get(name, f"{name}Config"))(**EXPECTED[name][1], initializer_range=0.3, pad_token_id=0)
    model: PreTrainedModel = getattr(transformers, f"{name}ForCausalLM")(config)
    return model.double()


def make_items(seed: int = 0, count: int = 6) -> list[Item]:
    """Prompts with one answer or two, of unequal lengths."""
    random = np.random.default_rng(seed)

    def text() -> np.ndarray:
        return random.integers(0, VOCABULARY, random.integers(1, 9), np.int32)

    return [Item(text(), tuple(text() for _ in range(1 + number % 2))) for number in range(count)]


def scores(model: PreTrainedModel, items: list[Item], layout: Callable[[list[Item]], Rows] = packed) -> Tensor:
    rows = layout(items)
    return label_logprobs(model, rows.inputs, rows.positions, rows.labels, chunks=1, head="product")


def separately(model: PreTrainedModel, items: list[Item]) -> Tensor:
    """Each answer behind its own prompt, one unpadded row at a time."""
    alone = [Item(item.prompt, (answer,)) for item in items for answer in item.answers]
    return torch.cat([scores(model, [item], padded) for item in alone])
