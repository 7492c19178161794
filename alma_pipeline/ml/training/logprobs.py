"""Log-probabilities of chosen tokens under a causal language model, without holding all logits at once. Not a loss."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from alma_pipeline.ml.distributed import everyone
from alma_pipeline.ml.models.causal import causal_model, head_of, hidden_states

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


def label_scores(hidden: Tensor, weight: Tensor, labels: Tensor, held: int) -> Tensor:
    """[n] log-probabilities (nats, float32 or wider) of `labels` [n] from `hidden` [n, d] and `weight` [vocabulary, d].

    At most `held` logits are in memory at once, or those of one label; n may be 0.
    """
    apply: Callable[..., Tensor] = _LabelScores.apply
    scores = apply(hidden, weight, labels, held, torch.is_grad_enabled())
    return scores


class _LabelScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, held: int, differentiable: bool) -> Tensor:
        ctx.pieces = _pieces(len(labels), max(1, held // len(weight)))
        ctx.head_is_frozen = differentiable and not weight.requires_grad
        slope = torch.empty_like(hidden) if ctx.head_is_frozen else None
        scores = []
        for piece in ctx.pieces:
            found, gradient = _scores(hidden[piece], weight, labels[piece])
            scores.append(found)
            if slope is not None:
                slope[piece] = gradient.to(weight.dtype) @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        else:
            ctx.save_for_backward(hidden, weight, labels, gradient if differentiable and len(ctx.pieces) == 1 else None)
        return torch.cat(scores)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.head_is_frozen:
            (slope,) = ctx.saved_tensors
            return (slope * outer[:, None]).to(slope.dtype), None, None, None, None
        hidden, weight, labels, kept = ctx.saved_tensors
        if kept is not None:
            gradient = kept.mul_(outer[:, None]).to(weight.dtype)  # in place: a backward pass goes through it once
            return gradient @ weight, gradient.t() @ hidden, None, None, None
        # In 16 bits a sum over many pieces loses its small terms.
        wide = torch.promote_types(weight.dtype, torch.float32)
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=wide)
        for piece in ctx.pieces:
            _, gradient = _scores(hidden[piece], weight, labels[piece])
            gradient = gradient.mul_(outer[piece, None]).to(weight.dtype)
            to_hidden[piece] = gradient @ weight
            if to_weight.dtype == gradient.dtype:
                to_weight.addmm_(gradient.t(), hidden[piece])
            else:
                to_weight += gradient.t() @ hidden[piece]
        return to_hidden, to_weight.to(weight.dtype), None, None, None


def _pieces(count: int, most: int) -> list[slice]:
    """Equal spans of `count` places, none longer than `most`; at least one, which may be empty."""
    pieces = max(1, -(-count // most))
    return [slice(count * i // pieces, count * (i + 1) // pieces) for i in range(pieces)]


def _scores(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[m] scores, and [m, vocabulary] their gradients with respect to the logits, in the logits' own memory."""
    logits = hidden @ weight.t()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, labels[:, None])
    largest = logits.amax(1, keepdim=True)
    mass = logits.sub_(largest).exp_().sum(1, keepdim=True)
    scores = (own - largest - mass.log()).squeeze(1)
    gradient = logits.div_(-mass)
    gradient.scatter_add_(1, labels[:, None], torch.ones_like(own))
    return scores, gradient


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
