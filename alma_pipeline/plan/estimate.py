"""How long a node takes and how much it needs, before it runs: steps, tokens, memory, disk, time. Imports no torch.

Numbers to plan by, not to bill by. The arithmetic is that of `sizes`; here it meets a node's settings and the hardware.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alma_pipeline.plan import model_size
from alma_pipeline.schema import PRECISION_BYTES, Hardware, Lora, Model, NodeConfig, Training
from alma_pipeline.schema.training import total_steps

SOURCES = (
    "Kaplan et al. 2020 and Chowdhery et al. 2022 (FLOPs), Rajbhandari et al. 2020 (ZeRO), Korthikanti et al. 2022 (activations)"
)
NOT_INCLUDED = "text preparation, scoring, downloads, cluster queues, padding"

START_SECONDS = 3.0
"""Of any node: starting the worker, loading the model, setting up DeepSpeed. Measured on 2 cores; a large model takes longer."""
PROCESS_BYTES = 0.58e9
"""What a worker takes on a CPU beside the model: the imported libraries and what they allocate at first use (measured)."""
HEAP_FACTOR = 1.5
"""On a CPU: what the C library holds for each byte of activations, since it keeps freed blocks (measured, glibc 2.36)."""
BUCKET = 5e8
"""Numbers that ZeRO-2 and 3 collect before they are reduced (DeepSpeed's reduce_bucket_size, its default)."""
LIVE = 1e9
"""Numbers of gathered weights that ZeRO-3 keeps at a time (DeepSpeed's stage3_max_live_parameters, its default)."""
TRAINING_LAUNCH = (5e-3, 8e-3, 8e-3, 25e-3)
"""Seconds on a CPU of one layer for one micro-batch, however small, by ZeRO stage (measured on 2 cores)."""
DECODING_LAUNCH = 5e-4
"""Seconds of one layer in one step of decoding, however small (measured on 2 cores)."""
OUTPUT_SHARE = 0.5
"""Of max_new_tokens: how long an output is taken to be when nothing is known (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a node reads; examples=0 where it is not known."""

    examples: int
    tokens: int
    """Of all examples together."""
    exact: bool
    """Counted in a corpus that exists, not expected."""
    dev_examples: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """0 stands for unknown."""

    steps: int = 0
    tokens: int = 0
    """Trained on or, in decoding, read and written."""
    exact: bool = False
    """Whether the steps are exact; tokens are where examples have one length, memory and time never are."""
    memory_bytes: int = 0
    """Of one device; on a CPU, of one process."""
    memory_parts: dict[str, int] = field(default_factory=dict)
    disk_bytes: int = 0
    """Of the artifact."""
    work_bytes: int = 0
    """Beside it while the node runs: resume points and the best checkpoint so far."""
    seconds: float = 0.0
    fits: bool = True
    nf4_bytes: int = 0
    """Of a node that does not fit: what it would take with its base in 4 bits, where it then fits."""


def estimate(kind: str, config: NodeConfig, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
    """What a node will take; None for kinds that compute nothing to speak of."""
    if isinstance(config, Training):
        return _training(config, model, hardware, counts)
    if kind in ("translate", "preferences"):
        return _decoding(config, model, hardware, counts)
    if kind == "base":
        return Estimate(disk_bytes=_weights_bytes(model), seconds=START_SECONDS)
    return None


def _weights_bytes(model: Model) -> int:
    return model_size.parameters(model.architecture) * PRECISION_BYTES[model.precision]


def _training(config: Training, model: Model, hardware: Hardware, counts: Counts) -> Estimate:
    length = counts.tokens / counts.examples if counts.examples else 0.0
    steps = _steps(config, counts)
    tokens = round(steps * config.global_batch * length)
    parts = training_memory(config, model, hardware, config.global_batch * length)
    trained, _ = _weights(config, model)
    artifact = trained * PRECISION_BYTES[config.precision]
    seconds = _training_seconds(config, model, hardware, steps, length, counts.dev_examples)
    state = artifact + model_size.state_bytes(trained, config.precision, hardware.zero_stage)["optimiser"]
    return Estimate(
        steps=steps,
        tokens=tokens,
        exact=counts.exact,
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        disk_bytes=artifact,
        # A new resume point is whole before the old one goes; a short run makes none.
        work_bytes=artifact + (2 * round(state) if seconds > hardware.checkpoint_seconds or not tokens else 0),
        seconds=START_SECONDS + seconds if tokens else 0.0,
        fits=_fits(parts, hardware),
        nf4_bytes=0 if _fits(parts, hardware) else _in_nf4(config, model, hardware, config.global_batch * length),
    )


def _in_nf4(config: Training, model: Model, hardware: Hardware, batch_tokens: float) -> int:
    """Bytes of one device with the base in 4 bits; 0 where that is not to be had or does not fit either."""
    if config.adapter not in ("new", "continue") or hardware.zero_stage == 3:
        return 0
    parts = training_memory(dataclasses.replace(config, base_weights="nf4"), model, hardware, batch_tokens)
    return sum(parts.values()) if _fits(parts, hardware) else 0


def _steps(config: Training, counts: Counts) -> int:
    if config.steps is not None:
        return config.steps
    return total_steps(config, counts.examples, counts.tokens) if counts.examples else 0


def _lora(config: Training) -> Lora | None:
    return None if config.adapter == "none" else config.lora


def _weights(config: Training, model: Model) -> tuple[int, int]:
    """How many weights are trained, and how many stand frozen beside them."""
    lora, whole = _lora(config), model_size.parameters(model.architecture)
    return (model_size.lora_parameters(model.architecture, lora), whole) if lora else (whole, 0)


def _fits(parts: Mapping[str, int], hardware: Hardware) -> bool:
    return sum(parts.values()) <= hardware.memory_gb * 1e9


def training_memory(config: Training, model: Model, hardware: Hardware, batch_tokens: float) -> dict[str, int]:
    """Bytes of one device by purpose; `batch_tokens`: of one global batch, 0 where unknown (then a full micro-batch)."""
    shape, precision = model.architecture, config.precision
    trained, frozen = _weights(config, model)
    states = model_size.state_bytes(trained, precision, hardware.zero_stage, hardware.world, frozen)
    if config.base_weights == "nf4":
        states["weights"] = trained * PRECISION_BYTES[precision] + model_size.nf4_bytes(shape, precision)
    buffers = _buffers(trained, frozen, precision, hardware)
    if hardware.offload == "cpu" and hardware.device != "cpu":
        # ZeRO-Offload: the optimiser's state and, from stage 2, the gradients live in the machine's memory.
        states["optimiser"] = 0.0
        states["gradients"] *= hardware.zero_stage < 2
        buffers -= 4 * trained / hardware.world
    row = min(hardware.row_tokens, batch_tokens / hardware.world or hardware.row_tokens)
    kept = row * model_size.activation_bytes(
        shape, precision, _lora(config), hardware.gradient_checkpointing, zero_stage=hardware.zero_stage
    )
    passing = row * max(
        model_size.logit_bytes(shape, precision) / _pieces(hardware.row_tokens, shape.vocab_size, hardware.zero_stage),
        model_size.gradient_bytes(shape, precision),
    )
    parts = states | {"buffers": buffers, "activations": kept, "temporary": passing}
    if hardware.device == "cpu":
        parts |= {"heap": (HEAP_FACTOR - 1) * (kept + passing), "process": PROCESS_BYTES}
    return {name: round(size) for name, size in parts.items()}


def _pieces(row_tokens: int, vocabulary: int, zero_stage: int) -> float:
    """In how many pieces logits are computed, every token having a label: `ml.logprobs`, which imports torch."""
    whole = row_tokens * vocabulary / 2**25
    if zero_stage == 3:
        return 1 if whole <= 1 else 8
    return max(1.0, whole)


def _buffers(trained: int, frozen: int, precision: str, hardware: Hardware) -> float:
    """What DeepSpeed 0.19 holds beside the states at its peak (measured at stages 0 to 3 with 1 and 2 processes)."""
    width, share = PRECISION_BYTES[precision], 4 * trained / hardware.world
    if hardware.zero_stage == 0:
        return 0.0
    if hardware.zero_stage == 1:
        return 2 * share  # the share's gradient in fp32, and once more while it is clipped
    bucket = width * min(BUCKET, trained)
    if hardware.zero_stage == 2:
        return share + bucket
    # The bucket, the gradients that wait for it and their reduced copy; gathered weights.
    return 3 * bucket + width * min(LIVE, trained + frozen)


def _training_seconds(config: Training, model: Model, hardware: Hardware, steps: int, length: float, dev_examples: int) -> float:
    """Seconds at the assumed utilisation, dev measurements included (the parent is measured too)."""
    shape = model.architecture
    lora = _lora(config)
    adapter = model_size.lora_parameters(shape, lora) if lora else 0
    batch = config.global_batch * length
    flops = steps * batch * model_size.training_flops(shape, length, adapter, hardware.gradient_checkpointing)
    flops += (config.evaluations + 1) * dev_examples * length * model_size.forward_flops(shape, length, adapter)
    seconds = flops / (_rate(hardware) * hardware.world)
    if hardware.device == "cpu":  # a GPU computes while its next operations are launched
        micro_batches = steps * math.ceil(batch / (hardware.row_tokens * hardware.world))
        seconds += micro_batches * TRAINING_LAUNCH[hardware.zero_stage] * shape.layers
    return seconds


def _decoding(config: Any, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
    """`translate` and `preferences`: rough, since the outputs' lengths are not known before."""
    if config.kind == "translate":
        sentences, width = counts.examples, config.width
    elif config.pairs.reader == "candidates":
        sentences, width = 2 * (len(config.languages) - 1) * (config.sources + config.held_out), config.candidates
    else:
        return None
    shape, output = model.architecture, OUTPUT_SHARE * config.max_new_tokens
    prompt = counts.tokens / counts.examples if counts.tokens else output
    cached = min(hardware.decode_tokens, sentences * (prompt + config.max_new_tokens) * width)
    at_once = max(1, int(hardware.decode_tokens / ((prompt + config.max_new_tokens) * width)))
    parts = {
        "weights": round(model_size.parameters(shape) * PRECISION_BYTES[config.precision]),
        "cache": round(cached * model_size.cache_bytes(shape, config.precision)),
        "logits": round(at_once * width * shape.vocab_size * 8),  # fp32, and once more while they are searched
        **({"process": round(PROCESS_BYTES)} if hardware.device == "cpu" else {}),
    }
    steps = math.ceil(sentences / (at_once * hardware.world)) * output
    read = parts["weights"] + at_once * width * (prompt + output) * model_size.cache_bytes(shape, config.precision)
    multiplied = at_once * width * model_size.forward_flops(shape, prompt + output) / _rate(hardware)
    # Bound by reading weights and cache, by multiplying, or by launching the work.
    step = max(read / hardware.bandwidth, multiplied, DECODING_LAUNCH * shape.layers)
    reading = sentences * prompt * model_size.forward_flops(shape, prompt) / (_rate(hardware) * hardware.world)
    return Estimate(
        tokens=round(sentences * (prompt + width * output)),
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        seconds=START_SECONDS + reading + steps * step if sentences else 0.0,
        fits=_fits(parts, hardware),
    )


def _rate(hardware: Hardware) -> float:
    """FLOP/s that one node is taken to reach on one device, others beside it."""
    return hardware.flops * hardware.utilisation / hardware.side_by_side
