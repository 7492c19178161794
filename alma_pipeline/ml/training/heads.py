"""Whether a model's logits are a product of its last states and its head: tried on the loaded model, not looked up in a list.

Where they are, they can be computed piece by piece at labels alone. Some architectures do more: a soft cap (Gemma 2), a
scale (Cohere, Granite); then the model itself is asked, at labels alone where its forward pass can leave the rest out.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from alma_pipeline.ml.distributed import everyone
from alma_pipeline.ml.models.causal import causal_model, head_of, hidden_states

TRIAL = 16
"""Tokens tried: each gives as many logits as there are words, all of which must be the same."""


def choose(model: nn.Module) -> str:
    """`product`: logits are `head(states)`, to the bit on the same input; `own`: the model does more, or another thing.

    In a process group every process must ask, and all get one answer: under ZeRO-3 they gather the head in step.
    """
    is_training = model.training
    model.eval()
    try:
        is_product = _is_product(model)
    except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError):
        is_product = False
    finally:
        model.train(is_training)
    if torch.distributed.is_initialized():
        is_product = all(everyone(is_product))
    return "product" if is_product else "own"


@torch.no_grad()
def _is_product(model: nn.Module) -> bool:
    vocabulary = causal_model(model).config.get_text_config().vocab_size
    ids = torch.arange(TRIAL, device=next(model.parameters()).device)[None] * 7 % vocabulary
    theirs = model(input_ids=ids, use_cache=False).logits
    found = head_of(model)(hidden_states(model, {"input_ids": ids}))
    return torch.equal(theirs.float(), found.float())


def own_logits(model: nn.Module, inputs: dict[str, Any], positions: Tensor) -> Tensor:
    """[n, vocabulary] as the model makes them, at `positions` [n] of its flattened [rows * length] tokens."""
    if "logits_to_keep" not in inspect.signature(causal_model(model).forward).parameters:
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits.flatten(0, 1).index_select(0, positions)
    length = inputs["input_ids"].shape[1]
    columns, place = torch.unique(positions % length, return_inverse=True)
    logits = model(**inputs, use_cache=False, logits_to_keep=columns).logits  # [rows, columns, vocabulary]
    return logits.flatten(0, 1).index_select(0, positions // length * len(columns) + place)
