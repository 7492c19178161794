"""Parts of a Hugging Face causal language model, with or without a PEFT wrapper around it."""

from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a PEFT wrapper (its LoRA layers stay in place), or `model` itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def hidden_states(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """[rows, length, hidden] states that go into the output head."""
    states: Tensor = causal_model(model).base_model(**inputs, use_cache=False).last_hidden_state
    return states


def head_of(model: nn.Module) -> nn.Module:
    """The output head: hidden states to logits. Raises AttributeError if the model has none."""
    causal = causal_model(model)
    head: nn.Module | None = causal.get_output_embeddings()
    if head is None:
        raise AttributeError(f"{type(causal).__name__} has no output embeddings")
    return head
