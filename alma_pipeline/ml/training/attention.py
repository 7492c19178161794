"""Attention over a packed row: each token attends to its own sequence only.

All other layers compute a packed row as it is, without padding. Here the row is split into its sequences, a few groups of
similar lengths, and joined again. Causal attention on a right-padded group needs no mask, since a token sees only what
comes before it. A token may be part of several sequences, as the prompt of a preference pair is. On CUDA in 16 bits one
kernel takes the sequences without padding, see `varlen`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from alma_pipeline.ml.training import varlen
from alma_pipeline.ml.training.layouts import Bounds

NAME = "alma_packed"
"""Name under which transformers knows the attention function."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequences: tuple[Tensor, ...] | None = None,
    places: Tensor | None = None,
    bounds: Bounds | None = None,
    keys: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,  # part of transformers' interface: each model passes its own
) -> tuple[Tensor, None]:
    """[1, tokens, heads, size] from `query` [1, heads, tokens, size] and `key`, `value` [1, key heads, tokens, size].

    `sequences` holds index groups [n, length] into the row, with arbitrary indices after a sequence's end; `places` [tokens]
    is the position of each token's output in the flattened groups. Without `places` the only group is the row itself, as
    for blocks of one length, and nothing is copied. `bounds` and `keys` (see `layouts`) describe the same sequences to a
    variable-length kernel, if there is one (`varlen`). Without `sequences` this is transformers' own attention.
    Raises NotImplementedError for anything that changes attention and is not implemented here.
    """
    # Rows that are not packed, as in decoding, take the ordinary path.
    if sequences is None:
        others |= {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        return plain
    # An ignored argument would give wrong results without an error.
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "head_mask") if others.get(name) is not None]
    if unknown or query.shape[0] != 1:
        raise NotImplementedError(f"packed attention supports one row at a time and no {unknown}; found {query.shape[0]} rows")
    row = [states[0].transpose(0, 1) for states in (query, key, value)]
    # Prefer the kernel that needs no padding.
    if bounds is not None and varlen.is_usable(row[0], row[1], sliding_window, dropout):
        return varlen.attend(row, bounds, keys, scaling, sliding_window)[None], None
    # Otherwise attend group by group, each a right-padded rectangle.
    outputs = []
    for group in sequences:
        taken = row if places is None else [states.index_select(0, group.flatten()) for states in row]
        q, k, v = (states.reshape(*group.shape, *states.shape[1:]).transpose(1, 2) for states in taken)
        mask = _window(group.shape[1], sliding_window, group.device)
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, dropout_p=dropout, enable_gqa=True
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    # Put the outputs back in the order of the row, which drops the padding.
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return (joined if places is None else joined.index_select(0, places))[None], None


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """[length, length] mask of the last `window` tokens, the token itself included; None if that is all before it."""
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def install(model: PreTrainedModel) -> None:
    """Make `model` attend through `packed_attention`. Raises ValueError if its code does not let attention be replaced."""
    AttentionInterface.register(NAME, packed_attention)
    # Rows that are not packed get transformers' usual masks.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


@contextmanager
def unpacked_attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Within this context the model uses the attention `implementation` it was loaded with: for decoding."""
    packed = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = packed
