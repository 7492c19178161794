"""Log-probabilities of chosen tokens under a causal language model, without holding all logits at once. Not a loss."""

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

PLAIN_HEAD = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures whose logits are exactly `lm_head(model(...))`: no scaling, no soft cap."""

WHOLE_LOGITS = 2**25
"""Logits (tokens times vocabulary) up to which one piece is kept; beyond, pieces are recomputed in the backward pass."""


def chunks_for(row_tokens: int, vocabulary: int) -> int:
    """In how many pieces a micro-batch's logits are computed: 1 or 8, the same for every micro-batch of a run.

    The number must not depend on the data: ZeRO-3 gathers the head once per piece, on all ranks in step.
    """
    return 1 if row_tokens * vocabulary <= WHOLE_LOGITS else 8


def label_logprobs(model: nn.Module, inputs: dict[str, Tensor], positions: Tensor, labels: Tensor, chunks: int) -> Tensor:
    """[n] float32 log-probabilities (nats) of `labels` [n]; n may be 0, and the graph is whole even then.

    `inputs` are the model's own arguments (`input_ids` [rows, length], and as wanted `attention_mask`,
    `position_ids`); `positions` [n] index the flattened [rows * length] hidden states that predict each label.
    """
    causal = causal_model(model)
    if causal.config.model_type not in PLAIN_HEAD:
        return _score_logits(model(**inputs, use_cache=False).logits.flatten(0, 1).index_select(0, positions), labels)
    hidden = causal.model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1).index_select(0, positions)
    if chunks == 1:
        return _score_hidden(causal.lm_head, hidden, labels)
    pieces = zip(hidden.tensor_split(chunks), labels.tensor_split(chunks), strict=True)
    scored = [checkpoint(_score_hidden, causal.lm_head, *piece, use_reentrant=False) for piece in pieces]
    return torch.cat(scored)


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face causal model itself, also inside a PEFT wrapper (whose layers stay in place)."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _score_hidden(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    return _score_logits(head(hidden), labels)


def _score_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits.float(), labels, reduction="none")
