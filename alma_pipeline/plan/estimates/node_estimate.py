"""What is estimated of a node before it runs: steps, tokens, memory, disk, time; and what all estimates share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from alma_pipeline.schema import Hardware

START_SECONDS = 3.0
"""Of any node: starting the worker, loading the model, setting up DeepSpeed (measured on 2 cores; a large model takes longer)."""
PROCESS_BYTES = 0.58e9
"""Host memory of a worker besides the model: imported libraries and what they allocate at first use (measured on a CPU)."""


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
    """Peak of the host's memory, of all processes of a machine together; 0 on a CPU, where it is `memory_bytes`."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed: as set in `hardware`, or where that is null, if they would not fit otherwise."""
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


def fits(parts: Mapping[str, int], hardware: Hardware) -> bool:
    """Whether the bytes of these parts fit on one device."""
    return sum(parts.values()) <= hardware.memory_gb * 1e9


def rate(hardware: Hardware) -> float:
    """FLOP/s that one node is assumed to reach on one device, which parallel nodes share."""
    return hardware.flops * hardware.utilisation / hardware.max_parallel_nodes
