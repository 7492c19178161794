"""How long a node takes and how much it needs, before it runs: steps, tokens, memory, disk, time. Imports no torch.

Numbers to plan by, not to bill by. The arithmetic is that of `sizes`; here it meets a node's settings and the hardware.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from alma_pipeline import sizes
from alma_pipeline.ml.schedule import total_steps
from alma_pipeline.schema import PRECISION_BYTES, Architecture, Hardware, Model, NodeConfig, Training

SOURCES = (
    "Kaplan et al. 2020 and Chowdhery et al. 2022 (FLOPs), Rajbhandari et al. 2020 (ZeRO), Korthikanti et al. 2022 (activations)"
)
LEFT_OUT = "text preparation, scoring, downloads, waiting for a cluster; padding beyond a batch's own"

START_SECONDS = 5.0
"""Of any node: starting the worker, loading the model, setting up DeepSpeed (measured on 2 cores; a large model takes longer)."""
PROCESS_BYTES = 0.6e9
"""What a worker takes on a CPU before it holds a model: the imported libraries (measured)."""
HEAP_FACTOR = 1.5
"""On a CPU: what the C library holds for each byte of activations, since it keeps freed blocks (measured, glibc 2.36)."""
BUCKET = 5e8
"""Numbers that ZeRO-2 and 3 collect before they are reduced (DeepSpeed's reduce_bucket_size, its default)."""
LIVE = 1e9
"""Numbers of gathered weights that ZeRO-3 keeps at a time (DeepSpeed's stage3_max_live_parameters, its default)."""
STEP_SECONDS = 5e-4
"""Of one layer in one decoding step, however small the model: launching its operations (measured on 2 cores)."""
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
    return sizes.parameters(model.architecture) * PRECISION_BYTES[model.precision]


def _training(config: Training, model: Model, hardware: Hardware, counts: Counts) -> Estimate:
    shape = model.architecture
    lora = config.lora if config.adapter != "none" else None
    trained = sizes.lora_parameters(shape, lora) if lora else sizes.parameters(shape)
    length = counts.tokens / counts.examples if counts.examples else 0.0
    steps = _steps(config, counts)
    tokens = round(steps * config.global_batch * length)
    parts = training_memory(config, model, hardware, config.global_batch * length)
    artifact = trained * PRECISION_BYTES[config.precision]
    compute = _training_seconds(config, model, hardware, tokens, length, counts)
    state = trained * (PRECISION_BYTES[config.precision] + 8 + _copy_bytes(config.precision, hardware))
    resumable = compute > hardware.checkpoint_seconds or not tokens
    return Estimate(
        steps=steps,
        tokens=tokens,
        exact=counts.exact,
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        disk_bytes=artifact,
        work_bytes=artifact + (2 * state if resumable else 0),  # a new point is whole before the old one goes
        seconds=START_SECONDS + compute if tokens else 0.0,
        fits=_fits(sum(parts.values()), hardware),
    )


def _steps(config: Training, counts: Counts) -> int:
    if config.steps is not None:
        return config.steps
    return total_steps(config, counts.examples, counts.tokens) if counts.examples else 0


def _copy_bytes(precision: str, hardware: Hardware) -> int:
    return 4 if precision != "fp32" or hardware.zero_stage else 0


def _fits(memory: float, hardware: Hardware) -> bool:
    return memory <= hardware.memory_gb * 1e9


def training_memory(config: Training, model: Model, hardware: Hardware, batch_tokens: float) -> dict[str, int]:
    """Bytes of one device by purpose; `batch_tokens`: of one global batch, 0 where unknown (then a full micro-batch)."""
    shape, precision = model.architecture, config.precision
    lora = config.lora if config.adapter != "none" else None
    trained = sizes.lora_parameters(shape, lora) if lora else sizes.parameters(shape)
    frozen = sizes.parameters(shape) if lora else 0
    states = sizes.state_bytes(shape, trained, precision, hardware.zero_stage, hardware.world, frozen)
    if hardware.offload == "cpu":
        states["optimiser"] = 0
        states["gradients"] = 0 if hardware.zero_stage >= 2 else states["gradients"]
    row = min(hardware.row_tokens, batch_tokens / hardware.world or hardware.row_tokens)
    parts = states | {
        "buffers": _buffers(trained, frozen, precision, hardware),
        "activations": row * sizes.activation_bytes(shape, precision, lora, hardware.gradient_checkpointing),
        "logits": row * sizes.logit_bytes(shape, precision) / _pieces(row, shape.vocab_size),
    }
    if hardware.device == "cpu":
        parts["heap"] = (HEAP_FACTOR - 1) * (parts["activations"] + parts["logits"])
        parts["process"] = PROCESS_BYTES
    return {name: round(size) for name, size in parts.items()}


def _pieces(row: float, vocabulary: int) -> int:
    """As `ml.logprobs.chunks_for`, which this side does not import."""
    return 1 if row * vocabulary <= 2**25 else 8


def _buffers(trained: int, frozen: int, precision: str, hardware: Hardware) -> float:
    """What DeepSpeed holds beside the states."""
    width = PRECISION_BYTES[precision]
    if not hardware.zero_stage:
        return 0.0
    total = 4 * trained / hardware.world  # the fp32 gradient of the device's share, made for the step
    if hardware.zero_stage >= 2:
        total += width * min(BUCKET, trained)
    if hardware.zero_stage == 3 and hardware.world > 1:
        total += width * min(LIVE, trained + frozen)
    return total


def _training_seconds(config: Training, model: Model, hardware: Hardware, tokens: int, length: float, counts: Counts) -> float:
    """Seconds at the assumed utilisation, dev measurements included."""
    shape = model.architecture
    lora = config.lora if config.adapter != "none" else None
    adapter = sizes.lora_parameters(shape, lora) if lora else 0
    flops = tokens * sizes.training_flops(shape, length, adapter, hardware.gradient_checkpointing)
    measured = (config.evaluations + 1) * counts.dev_examples * length  # the parent is measured too
    flops += measured * sizes.forward_flops(shape, length, adapter)
    return flops / (_rate(hardware) * hardware.world)


def _decoding(config: Any, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
    """`translate` and `preferences`: rough, since the outputs' lengths are not known before."""
    if config.kind == "translate":
        sentences, width = counts.examples, config.beams
    elif config.pairs.reader == "candidates":
        sentences, width = 2 * (len(config.languages) - 1) * (config.sources + config.held_out), config.candidates
    else:
        return None
    shape, output = model.architecture, OUTPUT_SHARE * config.max_new_tokens
    prompt = counts.tokens / counts.examples if counts.tokens else output
    cache = hardware.decode_tokens * sizes.cache_bytes(shape, config.precision)
    at_once = max(1, int(hardware.decode_tokens / ((prompt + config.max_new_tokens) * width)))
    parts = {
        "weights": _weights_bytes(model),
        "cache": round(cache),
        "logits": round(at_once * width * shape.vocab_size * 8),  # fp32, and once more while they are searched
        **({"process": round(PROCESS_BYTES)} if hardware.device == "cpu" else {}),
    }
    steps = math.ceil(sentences / (at_once * hardware.world)) * output
    step = _step_seconds(shape, hardware, at_once * width, prompt + output, parts["weights"])
    reading = sentences * prompt * sizes.forward_flops(shape, prompt) / (_rate(hardware) * hardware.world)
    return Estimate(
        tokens=round(sentences * (prompt + width * output)),
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
        seconds=START_SECONDS + reading + steps * step if sentences else 0.0,
        fits=_fits(sum(parts.values()), hardware),
    )


def _step_seconds(shape: Architecture, hardware: Hardware, rows: int, length: float, weights: int) -> float:
    """One token for each of `rows`: bound by reading weights and cache, by multiplying, or by launching the work."""
    reading = (weights + rows * length * sizes.cache_bytes(shape, "bf16")) / hardware.bandwidth
    return max(reading, rows * sizes.forward_flops(shape, length) / _rate(hardware), STEP_SECONDS * shape.layers)


def _rate(hardware: Hardware) -> float:
    """FLOP/s that one device is taken to reach."""
    return hardware.flops * hardware.utilisation
