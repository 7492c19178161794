"""Log-probabilities of chosen tokens under a causal language model, without holding all logits at once. Not a loss."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from alma_pipeline.ml.label_scores import label_scores

PLAIN_HEAD = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures whose logits are exactly `lm_head(model(...))`: no scaling, no soft cap."""

WHOLE_LOGITS = 2**25
"""Logits (labels times vocabulary) that are held at once and kept; beyond, pieces are recomputed in the backward pass."""


def chunks_for(row_tokens: int, vocabulary: int) -> int:
    """In how many pieces the head is called for a micro-batch: 1 or 8, the same for every micro-batch of a run.

    The number must not depend on the data: ZeRO-3 gathers the head once per piece, on all ranks in step. Where the
    head's weights are there whole, its pieces are of `WHOLE_LOGITS` instead.
    """
    return 1 if row_tokens * vocabulary <= WHOLE_LOGITS else 8


def label_logprobs(model: nn.Module, inputs: dict[str, Any], positions: Tensor, labels: Tensor, chunks: int) -> Tensor:
    """[n] log-probabilities (nats), float32 or wider, of `labels` [n]; n may be 0, and the graph is whole even then.

    `inputs` are the model's own arguments (`input_ids` [rows, length] and what goes with its layout); `positions` [n]
    index the flattened [rows * length] hidden states that predict each label.
    """
    causal = causal_model(model)
    if causal.config.model_type not in PLAIN_HEAD:
        return _score_logits(model(**inputs, use_cache=False).logits.flatten(0, 1).index_select(0, positions), labels)
    hidden = hidden_states(model, inputs).flatten(0, 1).index_select(0, positions)
    if chunks == 1:
        return _score_hidden(causal.lm_head, hidden, labels)
    head = causal.lm_head
    if type(head) is nn.Linear and head.bias is None and not hasattr(head.weight, "ds_id"):
        return label_scores(hidden, head.weight, labels, WHOLE_LOGITS)
    # ZeRO-3 holds a slice of the head, and an adapter changes it: both want the module itself to be called.
    pieces = zip(hidden.tensor_split(chunks), labels.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(_score_hidden, head, *piece, use_reentrant=False) for piece in pieces])


def hidden_states(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """[rows, length, hidden] states that the head takes."""
    states: Tensor = causal_model(model).base_model(**inputs, use_cache=False).last_hidden_state
    return states


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face causal model itself, also inside a PEFT wrapper (whose layers stay in place)."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _score_hidden(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    return _score_logits(head(hidden), labels)


def _score_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="none")
