"""Estimates how long a node takes and how much it needs before it runs; here nodes that train. Imports no torch.

Applies the arithmetic of `model_size` to a node's settings and the hardware. Good for planning, not for billing.
"""

import dataclasses
import math

from alma_pipeline.plan.estimates import decoding_estimate, model_size, zero_memory
from alma_pipeline.plan.estimates.node_estimate import PROCESS_BYTES, START_SECONDS, Counts, Estimate, fits, rate
from alma_pipeline.schema import PRECISION_BYTES, Hardware, Lora, Model, NodeConfig, Training
from alma_pipeline.schema.training import total_steps

NOT_INCLUDED = "text preparation, scoring, downloads, cluster queues, padding"

HEAP_FACTOR = 1.5
"""On a CPU: bytes that the C library holds per byte of activations, since it keeps freed blocks (measured, glibc 2.36)."""
TRAINING_LAUNCH = (5e-3, 8e-3, 8e-3, 25e-3)
"""Seconds on a CPU per layer and micro-batch, however small the batch, by ZeRO stage (measured on 2 cores)."""
WRITE_RATE = 1e9
"""Bytes per second at which resume points are assumed to be written: a fast network disk (our choice)."""
RESUME_SHARE = 20
"""The next resume point is due after this many times what the last took to write, at the earliest."""
SPARE_SHARE = 0.03
"""Share of `hardware.memory_gb` that must remain free for activations to be kept instead of recomputed (our choice). The vendors'
numbers in conf/hardware are themselves 7 % below what a device has."""


def estimate(kind: str, config: NodeConfig, model: Model, hardware: Hardware, counts: Counts) -> Estimate | None:
    """Estimate a node; None for kinds that hardly compute, such as corpora and scores."""
    if isinstance(config, Training):
        return _training(config, model, hardware, counts)
    if kind in ("translate", "preferences"):
        return decoding_estimate.decoding(config, model, hardware, counts)
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
        fits=fits(parts, hardware),
        nf4_bytes=0 if fits(parts, hardware) else _with_nf4(config, model, hardware, batch_tokens),
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
    return sum(parts.values()) if fits(parts, hardware) else 0


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
    seconds = flops / (rate(hardware) * hardware.world)
    # On a CPU launching operations takes time of its own; a GPU computes meanwhile.
    if hardware.device == "cpu":
        micro_batches = steps * math.ceil(batch / (hardware.micro_batch_tokens * hardware.world))
        seconds += micro_batches * TRAINING_LAUNCH[hardware.zero_stage] * shape.layers
    return seconds
