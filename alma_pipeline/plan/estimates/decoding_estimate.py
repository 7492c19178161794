"""Estimates nodes that decode: `translate` and `preferences`. Imports no torch."""

import math
from collections.abc import Mapping
from typing import Any

from alma_pipeline.plan.estimates import model_size
from alma_pipeline.plan.estimates.node_estimate import PROCESS_BYTES, START_SECONDS, Counts, Estimate, fits, rate
from alma_pipeline.schema import PRECISION_BYTES, Hardware, Model

DECODING_LAUNCH = 5e-4
"""Seconds per layer and decoding step, however small the batch (measured on 2 cores)."""
OUTPUT_SHARE = 0.5
"""Assumed length of an output as a share of max_new_tokens (our choice)."""


def decoding(config: Any, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
    """Estimate `translate` and sampled `preferences`. Rough, since output lengths are unknown; None for released preferences."""
    beams = config.kind == "translate" and config.decoding == "beam"
    if config.kind == "translate":
        sentences, width = counts.examples, config.width
    elif config.pairs.reader == "candidates":
        sentences, width = 2 * (len(config.languages) - 1) * (config.sources + config.held_out), config.candidates
    else:
        return None
    # Lengths of prompt and output, then how many sentences the token budget of a batch holds.
    shape, output = model.architecture, OUTPUT_SHARE * config.max_new_tokens
    prompt = counts.tokens / counts.examples if counts.tokens else output
    weights = _decoded_weights(config, model, config.quantization)
    budget = hardware.decode_tokens or _free_tokens(model, config.precision, hardware.memory_gb * 1e9 - weights, prompt / width)
    # As in `ml.decoding.batch_size`: beams share their past, and the cache has free columns for 8 steps.
    expected = prompt + (1 if beams else width) * min(prompt, config.max_new_tokens) + 8 * width
    cached = min(budget, sentences * (prompt + (config.max_new_tokens + 8) * width))
    at_once = max(1, min(int(budget / expected), math.ceil(sentences / hardware.world) or budget))
    parts = {
        "weights": weights,
        "cache": round(cached * model_size.cache_bytes(shape, config.precision)),
        "logits": round(at_once * width * shape.vocab_size * 8),  # fp32, and a copy while they are searched
        **({"process": round(PROCESS_BYTES)} if hardware.device == "cpu" else {}),
    }
    # A decoding step is bound by reading weights and cache, by computing, or by launching operations.
    read = parts["weights"] + at_once * expected * model_size.cache_bytes(shape, config.precision)
    computing = at_once * width * model_size.forward_flops(shape, prompt + output) / rate(hardware)
    step = max(read / hardware.bandwidth, computing, DECODING_LAUNCH * shape.layers)
    # Prompts are read once, many tokens at a time, so that they are bound by computing alone.
    steps = math.ceil(sentences / (at_once * hardware.world)) * output
    prompts = sentences * prompt * model_size.forward_flops(shape, prompt) / (rate(hardware) * hardware.world)
    return Estimate(
        tokens=round(sentences * (prompt + width * output)),
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        seconds=START_SECONDS + prompts + steps * step if sentences else 0.0,
        fits=fits(parts, hardware),
        nf4_bytes=0 if fits(parts, hardware) else _decoding_with_nf4(config, model, hardware, parts),
    )


def _free_tokens(model: Model, precision: str, free: float, share: float) -> int:
    """The token budget that decoding takes with decode_tokens=null, as in `ml.decoding.token_budget`, which imports torch.

    `free`: bytes beside the weights; `share`: of the prompt, in tokens per hypothesis.
    """
    logits = 16 * model.architecture.vocab_size / (8 + share)
    return max(1024, int(0.8 * free / (model_size.cache_bytes(model.architecture, precision) + logits)))


def _decoding_with_nf4(config: Any, model: Model, hardware: Hardware, parts: Mapping[str, int]) -> int:
    """Bytes per device with a 4-bit base; 0 if the node cannot have one, or would still not fit."""
    packed = {**parts, "weights": _decoded_weights(config, model, "nf4")}
    return sum(packed.values()) if config.engine == "native" and fits(packed, hardware) else 0


def _decoded_weights(config: Any, model: Model, quantization: str) -> int:
    """Bytes of the weights: merged, or in 4 bits with one adapter beside them."""
    shape, width = model.architecture, PRECISION_BYTES[config.precision]
    if quantization != "nf4":
        return model_size.parameters(shape) * width
    return round(model_size.nf4_bytes(shape, config.precision) + width * model_size.lora_parameters(shape, model.lora))
