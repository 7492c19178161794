"""Global batches as this rank's stream of micro-batches on the device. Independent of what an objective minimises.

On a GPU a thread prepares the stream ahead, across the end of a global batch too, so the device does not wait while the
next batch is read, split and laid out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.training.objective import Objective
from alma_pipeline.ml.training.prefetch import Batch, on_device
from alma_pipeline.schema import Hardware

Example = TypeVar("Example")
Norms = TypeVar("Norms")


@dataclass(frozen=True)
class GlobalBatch(Generic[Norms]):
    """The global batch that a micro-batch belongs to; equal on every rank."""

    norms: Norms
    """What its loss is divided by."""
    rounds: int
    """Micro-batches per rank, at least 1."""
    tokens: int
    """Of all its examples, prompts included."""
    labels: int
    """Of all its examples."""


def stream(
    objective: Objective[Example, Norms], batches: Iterable[Sequence[Example]], world: World, hardware: Hardware
) -> Iterator[tuple[GlobalBatch[Norms], Batch]]:
    """For each global batch in turn, which may not be empty, this rank's `rounds` micro-batches on its device."""
    return on_device(_on_cpu(objective, batches, world, hardware), world.device)


def _on_cpu(
    objective: Objective[Example, Norms], batches: Iterable[Sequence[Example]], world: World, hardware: Hardware
) -> Iterator[tuple[GlobalBatch[Norms], Batch]]:
    """The same stream as CPU tensors."""
    for examples in batches:
        # Every rank computes the split of all ranks, and takes its own.
        pieces = objective.micro_batches(examples, world.size, _overhead(hardware))[world.rank]
        full_batch = GlobalBatch(
            norms=objective.norms(examples),
            rounds=len(pieces),
            tokens=sum(map(objective.length, examples)),
            labels=sum(map(objective.labels, examples)),
        )
        for piece in pieces:
            yield full_batch, objective.collate([examples[place] for place in piece])


def _overhead(hardware: Hardware) -> int:
    """Fixed cost of a micro-batch, in tokens: under ZeRO-2 and 3 each one also moves gradients and weights."""
    return hardware.micro_batch_tokens // (64 if hardware.zero_stage < 2 else 16)
