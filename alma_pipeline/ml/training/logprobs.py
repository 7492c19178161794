"""Log-probabilities of chosen tokens under a causal language model, without holding all logits at once. Not a loss."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from alma_pipeline.ml.models.causal import head_of, hidden_states
from alma_pipeline.ml.training.heads import own_logits
from alma_pipeline.ml.training.label_scores import label_scores

WHOLE_LOGITS = 2**25
"""Logits (labels times vocabulary) that are held at once and kept; beyond, pieces are recomputed in the backward pass."""


def chunks_for(row_tokens: int, vocabulary: int) -> int:
    """In how many pieces the head is called for a micro-batch: 1 or 8, the same for every micro-batch of a run.

    The number must not depend on the data: ZeRO-3 gathers the head once per piece, on all ranks in step. Where the
    head's weights are there whole, its pieces are of `WHOLE_LOGITS` instead.
    """
    return 1 if row_tokens * vocabulary <= WHOLE_LOGITS else 8


def label_logprobs(model: nn.Module, inputs: dict[str, Any], positions: Tensor, labels: Tensor, chunks: int, head: str) -> Tensor:
    """[n] log-probabilities (nats), float32 or wider, of `labels` [n]; n may be 0, and the graph is whole even then.

    `inputs` are the model's own arguments (`input_ids` [rows, length] and what goes with its layout); `positions` [n]
    index the flattened [rows * length] hidden states that predict each label. `head` is what `heads` chose.
    """
    if head == "own":
        return _score_logits(own_logits(model, inputs, positions), labels)
    hidden = hidden_states(model, inputs).flatten(0, 1).index_select(0, positions)
    module = head_of(model)
    if chunks == 1:
        return _score_hidden(module, hidden, labels)
    if type(module) is nn.Linear and module.bias is None and not hasattr(module.weight, "ds_id"):
        return label_scores(hidden, module.weight, labels, WHOLE_LOGITS)
    # ZeRO-3 holds a slice of the head, and an adapter changes it: both want the module itself to be called.
    pieces = zip(hidden.tensor_split(chunks), labels.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(_score_hidden, module, *piece, use_reentrant=False) for piece in pieces])


def _score_hidden(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    return _score_logits(head(hidden), labels)


def _score_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="none")
