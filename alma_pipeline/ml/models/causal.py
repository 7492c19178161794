"""The Hugging Face causal model inside whatever wraps it, and its parts."""

from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face causal model itself, also inside a PEFT wrapper (whose layers stay in place)."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def hidden_states(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """[rows, length, hidden] states that the head takes."""
    states: Tensor = causal_model(model).base_model(**inputs, use_cache=False).last_hidden_state
    return states


def head_of(model: nn.Module) -> nn.Module:
    """The module that takes them. Raises AttributeError for a model that has none."""
    causal = causal_model(model)
    head: nn.Module | None = causal.get_output_embeddings()
    if head is None:
        raise AttributeError(f"{type(causal).__name__} has no output embeddings")
    return head
