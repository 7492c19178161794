"""The token budget of decoding batches where `hardware.decode_tokens` leaves it to the device: what its free memory allows."""

import torch
from transformers import PreTrainedModel

from alma_pipeline.ml import distributed
from alma_pipeline.ml.decoding.batch_size import GROW_STEPS
from alma_pipeline.schema import Hardware

FREE_SHARE = 0.8
"""Share of the free memory that the cache and its logits may take; the rest is for prompts being read and fragmentation (our
choice)."""
LOGIT_BYTES = 16
"""Bytes per hypothesis and piece of the vocabulary: 16-bit logits of up to four recordings, two copies in fp32 for the search."""
LEAST = 1024
"""Smallest budget that is chosen: a sentence or two, which need not fit (our choice)."""


def token_budget(hardware: Hardware, model: PreTrainedModel, width: int, shortest: int, most: int | None = None) -> int:
    """Tokens that a batch may hold: `hardware.decode_tokens`, or what the free memory of every rank's device allows.

    `most` limits the latter; `shortest`: tokens of the shortest prompt; `width`: hypotheses of each. A collective call.
    """
    if hardware.decode_tokens is not None:
        return hardware.decode_tokens
    # Each hypothesis takes at least so many columns of the cache, its share of the prompt included.
    columns = GROW_STEPS + shortest / width
    each = cache_bytes(model) + LOGIT_BYTES * model.config.get_text_config().vocab_size / columns
    free = free_bytes(model.device)
    # Under ZeRO-3 the ranks must decode in equal batches.
    tokens: int = min(distributed.all_gather(max(LEAST, int(FREE_SHARE * free / each))))
    tokens = min(tokens, most or tokens)
    print(f"decoding batches hold up to {tokens} tokens: {free / 1e9:.1f} GB are free, {each / 1e3:.0f} kB per token", flush=True)
    return tokens


def cache_bytes(model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values in all layers."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that this process can still take, with what torch keeps for it unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused
