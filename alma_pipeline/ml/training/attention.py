"""Attention among examples that lie end to end in one row: each token sees its own sequence and nothing else.

Everything but attention works on a packed row as it is, without padding. Here the row is taken apart into its
sequences, a few groups of similar lengths, and put together again. Causal attention on a right-padded group needs no
mask: what a token may see lies before it. A token may stand in several sequences, as a pair's prompt does. On CUDA in
16 bits one kernel takes them as they are, see `varlen`.
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
"""Of the attention function, as transformers knows it."""


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
    **others: Any,  # transformers' interface: every model hands over its own
) -> tuple[Tensor, None]:
    """[1, tokens, heads, size] out of `query` [1, heads, tokens, size] and `key`, `value` [1, key heads, tokens, size].

    `sequences` holds [n, length] groups of indices into the row, anything after a sequence's end; `places` [tokens]
    says where in the flattened groups each token's output stands. Without `places` the one group is the row itself, as
    for blocks of one length, and nothing is copied. `bounds` and `keys` (see `layouts`) say the same to a kernel that
    takes sequences of any lengths, where there is one (`varlen`). Without `sequences` this is transformers' own attention.
    Raises NotImplementedError for what changes attention and is not known here.
    """
    if sequences is None:
        others |= {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        return plain
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "head_mask") if others.get(name) is not None]
    if unknown or query.shape[0] != 1:
        raise NotImplementedError(f"packed attention knows one row at a time and no {unknown}")
    row = [states[0].transpose(0, 1) for states in (query, key, value)]
    if bounds is not None and varlen.is_right(row[0], row[1], sliding_window, dropout):
        return varlen.attend(row, bounds, keys, scaling, sliding_window)[None], None
    outputs = []
    for group in sequences:
        taken = row if places is None else [states.index_select(0, group.flatten()) for states in row]
        q, k, v = (states.reshape(*group.shape, *states.shape[1:]).transpose(1, 2) for states in taken)
        mask = _window(group.shape[1], sliding_window, group.device)
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, dropout_p=dropout, enable_gqa=True
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return (joined if places is None else joined.index_select(0, places))[None], None


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """[length, length] of what a token may see of the `window` last ones; None where that is all before it."""
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def install(model: PreTrainedModel) -> None:
    """Let `model` attend through `packed_attention`. Raises ValueError where its code does not let attention be chosen."""
    AttentionInterface.register(NAME, packed_attention)
    # Rows that are not packed get the masks that they get elsewhere.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


@contextmanager
def own_attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Within it the model attends as it did before it was set up for packed rows: for decoding."""
    packed = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = packed
