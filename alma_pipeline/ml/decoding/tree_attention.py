"""Attention of a decoding tree: each hypothesis attends to the cache columns that it descends from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

NAME = "alma_tree"
"""Name under which transformers knows the attention function."""


def additive_mask(visible: Tensor, config: PreTrainedConfig, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [S, 1, g * w, L] from `visible` [S, w, L], each hypothesis' ancestors; g heads share a key head."""
    groups = config.num_attention_heads // config.num_key_value_heads
    added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    added.masked_fill_(~visible, torch.finfo(dtype).min)
    return added.repeat(1, groups, 1)[:, None]


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's attention takes the masks of this module, and no others."""
    AttentionInterface.register(NAME, _attention)
    kept = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = kept


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """query [S, heads, w, size]; key, value [S, heads / g, L, size] -> [S, w, heads, size]. `others`: dropout, unused."""
    count, heads, width, size = query.shape
    packed = query.reshape(count, key.shape[1], heads // key.shape[1] * width, size)
    output = scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(count, heads, width, size).transpose(1, 2), None
