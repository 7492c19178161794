"""Log-probabilities of labels under a causal language model, without holding all logits at once.

Also decides how a model's logits are made: by its head alone, or by its own forward pass. Not a loss.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from alma_pipeline.ml.models.causal import causal_model, head_of, hidden_states
from alma_pipeline.ml.training import trial

WHOLE_LOGITS = 2**25
"""Maximum number of logits (labels times vocabulary) held at once; beyond, chunks are recomputed in the backward pass."""
TRIAL_TOKENS = 16
"""Tokens of the trial in `choose_head`; each gives a whole vocabulary of logits to compare."""


def num_chunks(micro_batch_tokens: int, vocabulary: int) -> int:
    """Number of chunks in which the head is called for a micro-batch: 1 or 8, constant for a run.

    It must not depend on the data: ZeRO-3 gathers the head once per chunk, on all ranks in step. If the head's weights are
    whole on each rank, chunks hold `WHOLE_LOGITS` logits instead.
    """
    return 1 if micro_batch_tokens * vocabulary <= WHOLE_LOGITS else 8


def label_logprobs(model: nn.Module, inputs: dict[str, Any], positions: Tensor, labels: Tensor, chunks: int, head: str) -> Tensor:
    """[n] log-probabilities (nats, float32 or wider) of `labels` [n]; for n = 0 the graph still reaches every parameter.

    `inputs` are the model's keyword arguments (`input_ids` [rows, length] and what its layout adds); `positions` [n] index
    the flattened [rows * length] hidden states that predict each label. `head` is what `choose_head` returned.
    """
    if head == "own":
        return _logit_logprobs(model_logits(model, inputs, positions), labels)
    # Take the states of the labels first: prompts and padding need no logits.
    hidden = hidden_states(model, inputs).flatten(0, 1).index_select(0, positions)
    module = head_of(model)
    if chunks == 1:
        return _head_logprobs(module, hidden, labels)
    # A plain head allows its gradient to be computed in place, chunk by chunk.
    if type(module) is nn.Linear and module.bias is None and not hasattr(module.weight, "ds_id"):
        return chunked_logprobs(hidden, module.weight, labels, WHOLE_LOGITS)
    # Under ZeRO-3 the head is sliced, and an adapter changes it: in both cases the module itself must be called.
    pieces = zip(hidden.tensor_split(chunks), labels.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(_head_logprobs, module, *piece, use_reentrant=False) for piece in pieces])


def _head_logprobs(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """[n] log-probabilities of `labels` [n] from hidden states [n, d]."""
    return _logit_logprobs(head(hidden), labels)


def _logit_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """[n] log-probabilities of `labels` [n] from logits [n, vocabulary], in float32 or wider."""
    return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="none")


def chunked_logprobs(hidden: Tensor, weight: Tensor, labels: Tensor, held: int) -> Tensor:
    """[n] log-probabilities (nats, float32 or wider) of `labels` [n] from `hidden` [n, d] and `weight` [vocabulary, d].

    Holds at most `held` logits in memory at once, or those of one label; n may be 0.
    """
    apply: Callable[..., Tensor] = _ChunkedLogprobs.apply
    scores = apply(hidden, weight, labels, held, torch.is_grad_enabled())
    return scores


class _ChunkedLogprobs(torch.autograd.Function):
    """Log-probabilities computed chunk by chunk.

    For a frozen head, the gradient of `hidden` is computed in the forward pass. Otherwise a single chunk keeps the gradient of
    its logits for the backward pass, and several chunks are recomputed there.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, held: int, differentiable: bool) -> Tensor:
        ctx.chunks = _spans(len(labels), max(1, held // len(weight)))
        # A frozen head needs only the gradient of `hidden`: [n, d] instead of [n, vocabulary].
        ctx.head_is_frozen = differentiable and not weight.requires_grad
        slope = torch.empty_like(hidden) if ctx.head_is_frozen else None
        scores = []
        for chunk in ctx.chunks:
            found, gradient = _logprobs_and_gradient(hidden[chunk], weight, labels[chunk])
            scores.append(found)
            if slope is not None:
                slope[chunk] = gradient.to(weight.dtype) @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        else:
            ctx.save_for_backward(hidden, weight, labels, gradient if differentiable and len(ctx.chunks) == 1 else None)
        return torch.cat(scores)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.head_is_frozen:
            (slope,) = ctx.saved_tensors
            return (slope * outer[:, None]).to(slope.dtype), None, None, None, None
        # A trained head needs both gradients: from the kept chunk, or recomputed.
        hidden, weight, labels, kept = ctx.saved_tensors
        if kept is not None:
            gradient = kept.mul_(outer[:, None]).to(weight.dtype)  # in place: the backward pass runs once
            return gradient @ weight, gradient.t() @ hidden, None, None, None
        # A 16-bit sum over many chunks would lose small terms.
        wide = torch.promote_types(weight.dtype, torch.float32)
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=wide)
        for chunk in ctx.chunks:
            _, gradient = _logprobs_and_gradient(hidden[chunk], weight, labels[chunk])
            gradient = gradient.mul_(outer[chunk, None]).to(weight.dtype)
            to_hidden[chunk] = gradient @ weight
            if to_weight.dtype == gradient.dtype:
                to_weight.addmm_(gradient.t(), hidden[chunk])
            else:
                to_weight += gradient.t() @ hidden[chunk]
        return to_hidden, to_weight.to(weight.dtype), None, None, None


def _spans(count: int, most: int) -> list[slice]:
    """Equal spans of `count` places, none longer than `most`; at least one, which may be empty."""
    chunks = max(1, -(-count // most))
    return [slice(count * i // chunks, count * (i + 1) // chunks) for i in range(chunks)]


def _logprobs_and_gradient(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[m] log-probabilities, and their gradients [m, vocabulary] with respect to the logits.

    The gradients, onehot(label) - softmax, overwrite the logits in memory.
    """
    logits = hidden @ weight.t()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Log-softmax of the labels alone, in the memory of the logits.
    own = logits.gather(1, labels[:, None])
    largest = logits.amax(1, keepdim=True)
    mass = logits.sub_(largest).exp_().sum(1, keepdim=True)
    scores = (own - largest - mass.log()).squeeze(1)
    # exp(logits - max) / sum is the softmax; its negative plus the one-hot label is the gradient.
    gradient = logits.div_(-mass)
    gradient.scatter_add_(1, labels[:, None], torch.ones_like(own))
    return scores, gradient


def choose_head(model: nn.Module) -> str:
    """`product` if the model's logits equal `head(hidden states)` bit for bit; `own` if the model does anything else.

    Gemma 2 caps its logits and Cohere scales them, for instance. A collective call in a process group, with one answer for
    all ranks: under ZeRO-3 they gather the head in step.
    """

    def is_product() -> bool:
        try:
            return _is_product(model)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError):
            return False

    return "product" if trial.passes(model, is_product) else "own"


def _is_product(model: nn.Module) -> bool:
    """Compare the model's logits on a few tokens with the head applied to its hidden states."""
    vocabulary = causal_model(model).config.get_text_config().vocab_size
    ids = torch.arange(TRIAL_TOKENS, device=next(model.parameters()).device)[None] * 7 % vocabulary
    theirs = model(input_ids=ids, use_cache=False).logits
    found = head_of(model)(hidden_states(model, {"input_ids": ids}))
    return torch.equal(theirs.float(), found.float())


def model_logits(model: nn.Module, inputs: dict[str, Any], positions: Tensor) -> Tensor:
    """[n, vocabulary] logits as the model makes them, at `positions` [n] of its flattened [rows * length] tokens."""
    # Older models compute the logits of every token.
    if "logits_to_keep" not in inspect.signature(causal_model(model).forward).parameters:
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits.flatten(0, 1).index_select(0, positions)
    # The argument selects columns for all rows, so take the columns that occur, then the labels' places in them.
    length = inputs["input_ids"].shape[1]
    columns, place = torch.unique(positions % length, return_inverse=True)
    logits = model(**inputs, use_cache=False, logits_to_keep=columns).logits  # [rows, columns, vocabulary]
    return logits.flatten(0, 1).index_select(0, positions // length * len(columns) + place)
