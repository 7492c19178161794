"""Global batches as this rank's stream of micro-batches on the device. Knows objectives; what they minimise it does not.

On a GPU the stream is made ahead by a thread, over the end of a global batch too: the device does not wait while the
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
class Whole(Generic[Norms]):
    """The global batch that a micro-batch is part of; equal on every rank."""

    norms: Norms
    """What its loss is divided by."""
    rounds: int
    """Micro-batches of each rank, at least 1."""
    tokens: int
    labels: int


def stream(
    objective: Objective[Example, Norms], batches: Iterable[Sequence[Example]], world: World, hardware: Hardware
) -> Iterator[tuple[Whole[Norms], Batch]]:
    """For each global batch in turn, none of them empty, its `rounds` micro-batches of this rank."""
    return on_device(_made(objective, batches, world, hardware), world.device)


def _made(
    objective: Objective[Example, Norms], batches: Iterable[Sequence[Example]], world: World, hardware: Hardware
) -> Iterator[tuple[Whole[Norms], Batch]]:
    for examples in batches:
        pieces = objective.micro_batches(examples, world.size, _overhead(hardware))[world.rank]
        whole = Whole(
            norms=objective.norms(examples),
            rounds=len(pieces),
            tokens=sum(map(objective.length, examples)),
            labels=sum(map(objective.labels, examples)),
        )
        for piece in pieces:
            yield whole, objective.collate([examples[place] for place in piece])


def _overhead(hardware: Hardware) -> int:
    """What a micro-batch costs beside its tokens, in tokens: under ZeRO-2 and 3 it also moves gradients and weights."""
    return hardware.row_tokens // (64 if hardware.zero_stage < 2 else 16)
