"""Estimates how long a node takes and how much it needs before it runs: steps, tokens, memory, disk, time. Imports no torch.

Applies the arithmetic of `model_size` to a node's settings and the hardware. Good for planning, not for billing.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alma_pipeline.plan import model_size, zero_memory
from alma_pipeline.schema import PRECISION_BYTES, Hardware, Lora, Model, NodeConfig, Training
from alma_pipeline.schema.training import total_steps

NOT_INCLUDED = "text preparation, scoring, downloads, cluster queues, padding"

START_SECONDS = 3.0
"""Of any node: starting the worker, loading the model, setting up DeepSpeed (measured on 2 cores; a large model takes longer)."""
PROCESS_BYTES = 0.58e9
"""Host memory of a worker besides the model: imported libraries and what they allocate at first use (measured on a CPU)."""
HEAP_FACTOR = 1.5
"""On a CPU: bytes that the C library holds per byte of activations, since it keeps freed blocks (measured, glibc 2.36)."""
TRAINING_LAUNCH = (5e-3, 8e-3, 8e-3, 25e-3)
"""Seconds on a CPU per layer and micro-batch, however small the batch, by ZeRO stage (measured on 2 cores)."""
DECODING_LAUNCH = 5e-4
"""Seconds per layer and decoding step, however small the batch (measured on 2 cores)."""
WRITE_RATE = 1e9
"""Bytes per second at which resume points are assumed to be written: a fast network disk (our choice)."""
RESUME_SHARE = 20
"""The next resume point is due after this many times what the last took to write, at the earliest."""
SPARE_SHARE = 0.03
"""Share of `hardware.memory_gb` that must remain free for activations to be kept instead of recomputed (our choice). The vendors'
numbers in conf/hardware are themselves 7 % below what a device has."""
OUTPUT_SHARE = 0.5
"""Assumed length of an output as a share of max_new_tokens (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much text a node reads; examples=0 if unknown."""

    examples: int
    tokens: int
    """Of all examples."""
    exact: bool
    """Counted in an existing corpus, not expected."""
    dev_examples: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a node takes; 0 means unknown."""

    steps: int = 0
    tokens: int = 0
    """Tokens trained on; in decoding, tokens read and written."""
    exact: bool = False
    """Whether steps are exact. Tokens are exact only if all examples have one length; memory and time never are."""
    memory_bytes: int = 0
    """Peak per device; on a CPU, per process."""
    memory_parts: dict[str, int] = field(default_factory=dict)
    disk_bytes: int = 0
    """Of the artifact."""
    work_bytes: int = 0
    """In addition, while the node runs: resume points and the best checkpoint so far."""
    host_bytes: int = 0
    """Peak of the host's memory, of all processes of a machine together; 0 on a CPU, where `memory_bytes` says it."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed: as `hardware` says, or where it says null, as `memory_bytes` demands."""
    resume_points: int = 0
    """How many are written; each replaces the one before."""
    resume_bytes: int = 0
    """Of one."""
    resume_seconds: float = 0.0
    """Of writing one."""
    seconds: float = 0.0
    fits: bool = True
    nf4_bytes: int = 0
    """Memory with a 4-bit base, if that makes a node fit that otherwise does not; else 0."""


def estimate(kind: str, config: NodeConfig, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
    """Estimate a node; None for kinds that hardly compute, such as corpora and scores."""
    if isinstance(config, Training):
        return _training(config, model, hardware, counts)
    if kind in ("translate", "preferences"):
        return _decoding(config, model, hardware, counts)
    if kind == "base":
        return Estimate(disk_bytes=_weights_bytes(model), seconds=START_SECONDS)
    return None


def _weights_bytes(model: Model) -> int:
    return model_size.parameters(model.architecture) * PRECISION_BYTES[model.precision]


def checkpoint_bytes(config: Training, model: Model) -> int:
    """Bytes of the checkpoint that a training stage makes: all weights, or an adapter's."""
    return _weights(config, model)[0] * PRECISION_BYTES[config.precision]


def _training(config: Training, model: Model, hardware: Hardware, counts: Counts) -> Estimate:
    # Mean tokens per example give the tokens of a global batch, on which everything else depends.
    length = counts.tokens / counts.examples if counts.examples else 0.0
    batch_tokens = config.global_batch_size * length
    steps = _steps(config, counts)
    tokens = round(steps * batch_tokens)
    hardware = settled(config, model, hardware, batch_tokens)
    parts = training_memory(config, model, hardware, batch_tokens)
    fits = _fits(parts, hardware)
    seconds = _training_seconds(config, model, hardware, steps, length, counts.dev_examples)
    # The artifact holds the trained weights; a resume point holds the optimiser's state as well.
    trained, _ = _weights(config, model)
    artifact = checkpoint_bytes(config, model)
    point = artifact + round(model_size.state_bytes(trained, config.precision, hardware.zero_stage)["optimiser"])
    interval = max(hardware.checkpoint_seconds, RESUME_SHARE * point / WRITE_RATE)
    points = math.ceil(seconds / interval) - 1 if seconds else 0
    # A new resume point is complete before the old one is deleted, hence two; a short run writes none.
    kept = 2 if points or not tokens else 0
    return Estimate(
        steps=steps,
        tokens=tokens,
        exact=counts.exact,
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        disk_bytes=artifact,
        work_bytes=artifact + kept * point,
        host_bytes=_host_bytes(config, model, hardware),
        gradient_checkpointing=bool(hardware.gradient_checkpointing),
        resume_points=points,
        resume_bytes=point,
        resume_seconds=point / WRITE_RATE,
        seconds=START_SECONDS + seconds if tokens else 0.0,
        fits=fits,
        nf4_bytes=0 if fits else _with_nf4(config, model, hardware, batch_tokens),
    )


def settled(config: Training, model: Model, hardware: Hardware, batch_tokens: float) -> Hardware:
    """The hardware with `gradient_checkpointing` decided: on, if null and keeping all activations would not fit."""
    if hardware.gradient_checkpointing is not None:
        return hardware
    plain = dataclasses.replace(hardware, gradient_checkpointing=False)
    needed = sum(training_memory(config, model, plain, batch_tokens).values())
    return dataclasses.replace(hardware, gradient_checkpointing=needed > (1 - SPARE_SHARE) * hardware.memory_gb * 1e9)


def _with_nf4(config: Training, model: Model, hardware: Hardware, batch_tokens: float) -> int:
    """Bytes per device with a 4-bit base (QLoRA); 0 if the node cannot have one, or would still not fit."""
    if config.adapter not in ("new", "continue") or hardware.zero_stage == 3:
        return 0
    quantised = dataclasses.replace(config, quantization="nf4")
    parts = training_memory(quantised, model, settled(quantised, model, hardware, batch_tokens), batch_tokens)
    return sum(parts.values()) if _fits(parts, hardware) else 0


def _steps(config: Training, counts: Counts) -> int:
    if config.steps is not None:
        return config.steps
    return total_steps(config, counts.examples, counts.tokens) if counts.examples else 0


def _lora(config: Training) -> Lora | None:
    return None if config.adapter == "none" else config.lora


def _weights(config: Training, model: Model) -> tuple[int, int]:
    """How many weights are trained and how many are frozen."""
    lora, whole = _lora(config), model_size.parameters(model.architecture)
    return (model_size.lora_parameters(model.architecture, lora), whole) if lora else (whole, 0)


def _sizes(config: Training, model: Model) -> zero_memory.Trained:
    trained, frozen = _weights(config, model)
    return zero_memory.Trained(trained, model_size.largest_matrix(model.architecture, _lora(config)), frozen, config.precision)


def _host_bytes(config: Training, model: Model, hardware: Hardware) -> int:
    """Bytes of the host's memory that a machine's processes take with a GPU; weights are read into the devices' memory.

    Under ZeRO-3 each process holds the whole model until it is sliced.
    """
    if hardware.device == "cpu":
        return 0
    whole = model_size.parameters(model.architecture) * PRECISION_BYTES[config.precision] if hardware.zero_stage == 3 else 0
    return round(hardware.devices * (PROCESS_BYTES + max(whole, zero_memory.host_bytes(_sizes(config, model), hardware))))


def _fits(parts: Mapping[str, int], hardware: Hardware) -> bool:
    return sum(parts.values()) <= hardware.memory_gb * 1e9


def training_memory(config: Training, model: Model, hardware: Hardware, batch_tokens: float) -> dict[str, int]:
    """Bytes per device by purpose. `batch_tokens`: tokens of one global batch; 0 assumes full micro-batches."""
    shape, precision, lora = model.architecture, config.precision, _lora(config)
    trained, frozen = _weights(config, model)
    # Weights and optimiser state, sharded as the ZeRO stage says (Rajbhandari et al. 2020); the rest is DeepSpeed's own.
    states = model_size.state_bytes(trained, precision, hardware.zero_stage, hardware.world, frozen)
    if config.quantization == "nf4":
        states["weights"] = trained * PRECISION_BYTES[precision] + model_size.nf4_bytes(shape, precision)
    if zero_memory.is_offloaded(hardware):
        states["optimiser"] = 0.0
    sizes = _sizes(config, model)
    states["gradients"] = zero_memory.gradient_bytes(sizes, hardware)
    buffers = zero_memory.buffer_bytes(sizes, hardware)
    # Activations of one micro-batch, kept until its backward pass (Korthikanti et al. 2022).
    micro_batch = min(hardware.micro_batch_tokens, batch_tokens / hardware.world or hardware.micro_batch_tokens)
    activations = micro_batch * model_size.activation_bytes(
        shape, precision, lora, bool(hardware.gradient_checkpointing), zero_stage=hardware.zero_stage
    )
    # The peak on top of them: either the logits or one layer's backward pass, which never coincide.
    temporary = micro_batch * max(
        model_size.logit_bytes(shape, precision) / _pieces(hardware.micro_batch_tokens, shape.vocab_size, hardware.zero_stage),
        model_size.gradient_bytes(shape, precision),
    )
    # Where the optimiser's step needs more than the backward pass, it makes the peak.
    backward = states["gradients"] + buffers + activations + temporary
    buffers += max(0.0, zero_memory.step_bytes(sizes, hardware) - backward)
    parts = states | {"buffers": buffers, "activations": activations, "temporary": temporary}
    if hardware.device == "cpu":
        parts |= {"heap": (HEAP_FACTOR - 1) * (activations + temporary), "process": PROCESS_BYTES}
    return {name: round(size) for name, size in parts.items()}


def _pieces(micro_batch_tokens: int, vocabulary: int, zero_stage: int) -> float:
    """How many pieces logits are cut into if every token has a label: as in `ml.training.logprobs`, which imports torch."""
    whole = micro_batch_tokens * vocabulary / 2**25
    if zero_stage == 3:
        return 1 if whole <= 1 else 8
    return max(1.0, whole)


def _training_seconds(config: Training, model: Model, hardware: Hardware, steps: int, length: float, dev_examples: int) -> float:
    """Seconds at the assumed utilisation, including the dev evaluations. `length`: mean tokens per example."""
    shape = model.architecture
    lora = _lora(config)
    adapter = model_size.lora_parameters(shape, lora) if lora else 0
    batch = config.global_batch_size * length
    flops = steps * batch * model_size.training_flops(shape, length, adapter, bool(hardware.gradient_checkpointing))
    # One dev evaluation more than configured, since the parent is evaluated too.
    flops += (config.evaluations + 1) * dev_examples * length * model_size.forward_flops(shape, length, adapter)
    seconds = flops / (_rate(hardware) * hardware.world)
    # On a CPU launching operations takes time of its own; a GPU computes meanwhile.
    if hardware.device == "cpu":
        micro_batches = steps * math.ceil(batch / (hardware.micro_batch_tokens * hardware.world))
        seconds += micro_batches * TRAINING_LAUNCH[hardware.zero_stage] * shape.layers
    return seconds


def _decoding(config: Any, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
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
    computing = at_once * width * model_size.forward_flops(shape, prompt + output) / _rate(hardware)
    step = max(read / hardware.bandwidth, computing, DECODING_LAUNCH * shape.layers)
    # Prompts are read once, many tokens at a time, so that they are bound by computing alone.
    steps = math.ceil(sentences / (at_once * hardware.world)) * output
    prompts = sentences * prompt * model_size.forward_flops(shape, prompt) / (_rate(hardware) * hardware.world)
    return Estimate(
        tokens=round(sentences * (prompt + width * output)),
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        seconds=START_SECONDS + prompts + steps * step if sentences else 0.0,
        fits=_fits(parts, hardware),
        nf4_bytes=0 if _fits(parts, hardware) else _decoding_with_nf4(config, model, hardware, parts),
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
    return sum(packed.values()) if config.engine == "native" and _fits(packed, hardware) else 0


def _decoded_weights(config: Any, model: Model, quantization: str) -> int:
    """Bytes of the weights: merged, or in 4 bits with one adapter beside them."""
    shape, width = model.architecture, PRECISION_BYTES[config.precision]
    if quantization != "nf4":
        return model_size.parameters(shape) * width
    return round(model_size.nf4_bytes(shape, config.precision) + width * model_size.lora_parameters(shape, model.lora))


def _rate(hardware: Hardware) -> float:
    """FLOP/s that one node is assumed to reach on one device, which parallel nodes share."""
    return hardware.flops * hardware.utilisation / hardware.max_parallel_nodes
