"""Log-probabilities of labels under a linear head, with one piece of the logits in memory at a time, forward and back.

    score_i = h_i . W[y_i] - log sum_v exp(h_i . W[v])          d score_i / d (h_i . W[v]) = [v = y_i] - p_i[v]

A piece of logits is turned into probabilities and then into gradients in place. Where all fit into one piece, it is kept
for the backward pass; several are computed again there. Where the head is frozen, as under LoRA, the forward pass leaves
the states' gradient behind instead and the backward pass only scales it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
