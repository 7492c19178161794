"""Tiny random models over the vocabulary of `tiny_model`: one whose attention can be replaced, and one whose cannot."""

import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from helpers.tiny_model import VOCABULARY


def llama() -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    )


def bloom() -> BloomForCausalLM:
    """Its attention does not let itself be replaced."""
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2, hidden_dropout=0.0, attention_dropout=0.0, pad_token_id=2
    )
    return BloomForCausalLM(config)
