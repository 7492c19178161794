"""What DeepSpeed's ZeRO keeps on a device and in the host's memory, from its own code. Knows no models, activations or plans.

Read in DeepSpeed 0.19.8 (runtime/bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py) under this project's settings
(`ml.training.engine.deepspeed_config`), and compared with the tensors that it holds by tests/plan/estimates/test_zero_memory.py.
"""

from dataclasses import dataclass

from alma_pipeline.schema import PRECISION_BYTES, Hardware

REDUCE_BUCKET = 50_000_000
"""As `ml.training.engine.REDUCE_BUCKET`, which imports torch."""
WHOLE_REDUCTION = 5e8
"""Gradients that are joined for one reduction where ZeRO has no bucket: stage 0, and stage 1 in bf16 (runtime/engine.py)."""
LIVE_PARAMETERS = 1e9
"""Gathered weights that ZeRO-3 keeps at a time (DeepSpeed's default stage3_max_live_parameters)."""
SUB_GROUP = 1e9
"""Weights that ZeRO-3 updates at a time (DeepSpeed's default sub_group_size)."""


@dataclass(frozen=True)
class Trained:
    """Sizes of what is trained, in numbers."""

    weights: int
    largest: int
    """Of the largest matrix."""
    frozen: int
    precision: str

    @property
    def width(self) -> int:
        """Bytes per number."""
        return PRECISION_BYTES[self.precision]

    @property
    def bucket(self) -> int:
        """As `ml.training.engine.reduce_bucket`."""
        return min(self.weights, max(REDUCE_BUCKET, self.largest))


def is_offloaded(hardware: Hardware) -> bool:
    """Whether the optimiser's state is in the host's memory rather than on a device."""
    return hardware.offload == "cpu" and hardware.device != "cpu"


def gradient_bytes(trained: Trained, hardware: Hardware) -> float:
    """Bytes per device of the gradient that a batch's micro-batches add up to, at the end of a backward pass."""
    count, stage, share = trained.weights, hardware.zero_stage, trained.weights / hardware.world
    if stage == 0:
        return trained.width * count
    if stage == 1:
        # Not sharded. In bf16 the fp32 sum is kept besides the 16-bit gradient; otherwise it takes that one's place.
        return (4 + trained.width if _is_bf16_optimizer(trained, hardware) else 4) * count
    if trained.width == 2:
        # The fp32 sum of the shard. With offload ZeRO-2 still keeps it on the device, until the optimiser's step.
        return 0.0 if stage == 3 and is_offloaded(hardware) else 4 * share
    if is_offloaded(hardware):
        return 0.0
    # In fp32 ZeRO-2 holds the shard of a micro-batch before it adds it to the sum.
    return 4 * share * (2 if stage == 2 else 1)


def buffer_bytes(trained: Trained, hardware: Hardware) -> float:
    """Bytes per device that a backward pass needs besides: buckets, what is being reduced, and gathered weights."""
    width, stage, bucket = trained.width, hardware.zero_stage, trained.bucket
    if stage == 0:
        return 0.0
    if _is_bf16_optimizer(trained, hardware):
        return 4 * trained.largest
    # With offload, room to bring a matrix's gradient back.
    restored = width * trained.largest if is_offloaded(hardware) and stage < 3 else 0
    if stage == 1:
        # The bucket is that of the fp32 sum.
        return restored + 4 * bucket + (width + (4 if width == 2 else 0)) * trained.largest
    if stage == 2:
        # A second bucket is filled while the first is reduced; a reduction copies its bucket.
        buckets = 2 if hardware.world > 1 else 1
        return restored + width * bucket * (buckets + (width == 2)) + width * trained.largest
    # The shard of a bucket is widened before it is added; one process alone has nothing to gather.
    reducing = width * (trained.largest + bucket) + (4 * bucket / hardware.world if width == 2 else 0)
    gathered = width * min(LIVE_PARAMETERS, trained.weights + trained.frozen) if hardware.world > 1 else 0
    return width * bucket + reducing + gathered


def step_bytes(trained: Trained, hardware: Hardware) -> float:
    """Bytes per device that the optimiser's step needs besides weights and state: the gradient and its copies.

    It runs after the backward pass, when activations and buckets are gone.
    """
    count, stage, share = trained.weights, hardware.zero_stage, trained.weights / hardware.world
    if stage == 0 or _is_bf16_optimizer(trained, hardware):
        # Small tensors are joined for one reduction; one that is larger than the limit, or alone as a LoRA's is, is not copied.
        alone = hardware.world == 1 if stage == 0 else bool(trained.frozen)
        joined = 0 if count > WHOLE_REDUCTION or alone else 4 * count
        return gradient_bytes(trained, hardware) + joined
    largest, offloaded = trained.largest, is_offloaded(hardware)
    restored = trained.width * largest if offloaded and stage < 3 else 0
    if stage == 1:
        # The sum, the shard that is cut from it, and a bucket with its copy.
        reducing = 8 * trained.bucket
        if trained.width == 2:
            return restored + 4 * (count + share) + reducing
        return restored + 4 * count + (reducing if offloaded else max(4 * share, reducing))
    if stage == 2:
        # The norm of one matrix at a time is computed in fp64; with offload its gradient is brought back for that.
        norm = (12 if offloaded and trained.width == 4 else 8) * largest
        gradient = gradient_bytes(trained, hardware)
        return restored + max(gradient, min(gradient, 4 * share) + norm)
    updated = 0 if offloaded else 4 * min(share, SUB_GROUP)
    return trained.width * trained.bucket + gradient_bytes(trained, hardware) + updated


def host_bytes(trained: Trained, hardware: Hardware) -> float:
    """Bytes in the host's memory per process with offload: fp32 weights, their gradient and two moments, and copies."""
    if not is_offloaded(hardware):
        return 0.0
    share, stage = trained.weights / hardware.world, hardware.zero_stage
    if stage == 3:
        return 20 * share  # the gradient twice: the micro-batches' sum, and that of the step
    copies = (16 + trained.width) * share + trained.width * trained.largest
    # In fp32 ZeRO-2 adds the micro-batches up in the host's memory.
    return copies + (4 * share if stage == 2 and trained.width == 4 else 0)


def _is_bf16_optimizer(trained: Trained, hardware: Hardware) -> bool:
    """Whether DeepSpeed takes its optimiser of that name, which shards the state alone (`_do_optimizer_sanity_check`)."""
    return hardware.zero_stage == 1 and trained.precision == "bf16" and hardware.offload == "none"
