"""Attention of a tree's hypotheses to their shared cache, without a copy of keys and values for each query head.

In a model with grouped queries (Ainslie et al. 2023, arXiv 2305.13245) several query heads read one key-value head.
Kernels that take a mask repeat the keys and values once per query head; while decoding that copy costs more than the
attention itself. Here the query heads of a group stand behind one another as further queries of one head.

Shapes: S prompts at work, w hypotheses of each, g query heads to a key-value head, L columns of the cache in use.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

NAME = "alma_tree"


def mask(visible: Tensor, config: PreTrainedConfig, dtype: torch.dtype) -> Tensor:
    """What is added to the attention scores, [S, 1, g * w, L]. visible: [S, w, L], what each hypothesis descends from."""
    groups = config.num_attention_heads // config.num_key_value_heads
    added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    added.masked_fill_(~visible, torch.finfo(dtype).min)
    return added.repeat(1, groups, 1)[:, None]


@contextmanager
def attention_of_trees(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's attention takes the masks of this module, and no others."""
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
    """query: [S, heads, w, size]; key, value: [S, heads / g, L, size] -> [S, w, heads, size]. `others`: dropout, unused."""
    count, heads, width, size = query.shape
    packed = query.reshape(count, key.shape[1], heads // key.shape[1] * width, size)
    output = scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(count, heads, width, size).transpose(1, 2), None
