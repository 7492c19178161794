"""Attention over a packed row in one call of PyTorch's variable-length flash kernel, on CUDA in 16 bits.

Queries stay in row order. A pair's second answer also attends to its prompt, which is before the first answer: its keys and
values are gathered, and the kernel lets a query see all keys up to its own, counted from the sequence's end
(FlashAttention 2.1's causal mask for fewer queries than keys). So a shared prompt needs no block mask.

Whether the kernel is correct is tested on the device, once for each shape of heads, forward and backward.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from alma_pipeline.ml.training.layouts import Bounds

DTYPES = torch.float16, torch.bfloat16
TOLERANCE = 0.02
"""Largest allowed error of the trial relative to the result (our choice): bfloat16 has a precision of 8 bits."""
TRIAL = ((7, 7), (5, 9), (1, 6), (12, 12))
"""(queries, keys) of the trial's sequences; if there are fewer queries than keys, they are the last."""


def attend(states: Sequence[Tensor], bounds: Bounds, keys: Tensor | None, scaling: float | None, window: int | None) -> Tensor:
    """[tokens, heads, size] from `states`: query [tokens, heads, size] and key, value [tokens, key heads, size].

    `keys` [all keys] are the row positions of all sequences' keys, or None if they are in row order. A token sees the last
    `window` tokens, itself included, or for None all before it.
    """
    query, key, value = states
    if keys is not None:
        key, value = key.index_select(0, keys), value.index_select(0, keys)
    output = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        *bounds,
        bounds[-1],
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)  # a pair only if the log-sum-exp is requested too
    return output


def is_usable(query: Tensor, key: Tensor, window: int | None, dropout: float) -> bool:
    """Whether `attend` can be used: states [tokens, heads, size] on CUDA in 16 bits, no dropout, and the trial passed."""
    if not query.is_cuda or query.dtype not in DTYPES or dropout:
        return False
    return _tried(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[2], window is not None)


@lru_cache
def _tried(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, size: int, windowed: bool) -> bool:
    """The cached result of the trial on this device for these shapes; prints it once."""
    try:
        # Activation checkpointing counts saved tensors per layer, and the trial saves some on the first call only: hide them.
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            error = trial_error(device, dtype, heads, key_heads, size, 4 if windowed else None)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as problem:
        print(f"variable-length flash attention does not run on {device} ({problem}); using padded groups", flush=True)
        return False
    if not error <= TOLERANCE:
        print(f"variable-length flash attention has an error of {error:.2g} on {device}; using padded groups", flush=True)
        return False
    print(f"packed rows use variable-length flash attention (error {error:.2g} on {device})", flush=True)
    return True


@torch.enable_grad()
def trial_error(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, size: int, window: int | None) -> float:
    """Largest relative error of `attend`, over output and gradients, against sequences computed one at a time in float32."""
    # Random states in the kernel's type, and the same numbers in float32.
    draw = torch.Generator().manual_seed(0)
    queries, lengths = (torch.tensor(column) for column in zip(*TRIAL, strict=True))
    shapes = ((int(queries.sum()), heads), (int(lengths.sum()), key_heads), (int(lengths.sum()), key_heads))
    states = [torch.randn(*shape, size, generator=draw).to(device, dtype).requires_grad_() for shape in shapes]
    exact = [state.detach().float().requires_grad_() for state in states]
    bounds = (_sums(queries).to(device), _sums(lengths).to(device), int(lengths.max()))
    # Compare outputs, then gradients for one random direction.
    found = attend(states, bounds, None, None, window)
    expected = _one_by_one(exact, window)
    slope = torch.randn(*expected.shape, generator=draw).to(device)
    pairs = [(found, expected)]
    pairs += zip(torch.autograd.grad(found, states, slope.to(dtype)), torch.autograd.grad(expected, exact, slope), strict=True)
    return max(float((one.detach().float() - other.detach()).norm() / other.detach().norm()) for one, other in pairs)


def _one_by_one(states: list[Tensor], window: int | None) -> Tensor:
    """The expected output of `attend` for the sequences of `TRIAL`, in float32."""
    outputs, at, key_at = [], 0, 0
    for queries, keys in TRIAL:
        query = states[0][at : at + queries].transpose(0, 1)
        key, value = (state[key_at : key_at + keys].transpose(0, 1) for state in states[1:])
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        mask = (distance >= 0) & (distance < (window or keys))
        outputs.append(
            scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.device), enable_gqa=True).transpose(0, 1)
        )
        at, key_at = at + queries, key_at + keys
    return torch.cat(outputs)


def _sums(sizes: Tensor) -> Tensor:
    """[n + 1] int32 offsets of consecutive sequences."""
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
