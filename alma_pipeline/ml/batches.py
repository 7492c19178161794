"""Which examples a step trains on, and how they are split into micro-batches over ranks: pure functions of numbers.

Knows no example and no tensor. Every rank computes the same split, so that nothing has to be communicated.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alma_pipeline.errors import UserError


@lru_cache(maxsize=2)
def order(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """[examples] a permutation of the indices, another one in every epoch."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def global_batch(step: int, size: int, examples: int, seed: int) -> list[int]:
    """Indices of the `size` examples of optimiser step `step`, counted from 0.

    Batches run on over the end of an epoch, so that none is short; a batch larger than the set holds some twice.
    """
    places = range(step * size, (step + 1) * size)
    return [int(order(examples, seed, place // examples)[place % examples]) for place in places]


def check_budget(longest: int, row_tokens: int, name: str) -> None:
    """Raises UserError where the longest example of the set `name` does not fit a micro-batch, even alone."""
    if longest > row_tokens:
        raise UserError(
            f"hardware.row_tokens={row_tokens}, but the longest {name} example takes {longest} tokens; "
            f"set hardware.row_tokens to {longest} or more, or shorten the corpus's examples"
        )


def micro_batches(lengths: Sequence[int], budget: int, ranks: int, overhead: int) -> list[list[list[int]]]:
    """For each rank its micro-batches, each a list of places in `lengths`; equally many for all, empty ones at the end.

    A micro-batch's padded size, rows times longest, stays within `budget` tokens. Examples are sorted by length and
    cut where padded tokens plus `overhead` tokens a micro-batch are fewest.
    """
    by_length = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    pieces = [[by_length[i] for i in range(*cut)] for cut in _cuts([lengths[i] for i in by_length], budget, overhead)]
    _fill_rounds(pieces, lengths, ranks)
    return _deal(pieces, lengths, ranks)


def padded(piece: Sequence[int], lengths: Sequence[int]) -> int:
    """Tokens of a micro-batch with its padding."""
    return len(piece) * max((lengths[place] for place in piece), default=0)


def _cuts(lengths: list[int], budget: int, overhead: int) -> list[tuple[int, int]]:
    """Spans of falling `lengths` with the least total cost: cost[i] is the best for the first i examples."""
    sizes = np.asarray(lengths, dtype=np.int64)
    cost = np.zeros(len(sizes) + 1, dtype=np.int64)
    start = np.zeros(len(sizes) + 1, dtype=np.int64)
    first = 0
    for end in range(1, len(sizes) + 1):
        # The longest of a span is its first, so the spans that fit are those that start late enough.
        while (end - first) * sizes[first] > budget:
            first += 1
        candidates = cost[first:end] + sizes[first:end] * (end - np.arange(first, end)) + overhead
        best = int(candidates.argmin())
        cost[end], start[end] = candidates[best], first + best
    spans, end = [], len(sizes)
    while end:
        spans.append((int(start[end]), end))
        end = int(start[end])
    return spans[::-1]


def _fill_rounds(pieces: list[list[int]], lengths: Sequence[int], ranks: int) -> None:
    """Halve the costliest micro-batches until they can be dealt out evenly, so that no rank waits."""
    while len(pieces) % ranks:
        divisible = [piece for piece in pieces if len(piece) > 1]
        if not divisible:
            return
        largest = max(divisible, key=lambda piece: padded(piece, lengths))
        pieces.append(largest[len(largest) // 2 :])
        del largest[len(largest) // 2 :]


def _deal(pieces: list[list[int]], lengths: Sequence[int], ranks: int) -> list[list[list[int]]]:
    """Costliest first, each to the least loaded rank that still has a round free."""
    rounds = -(-len(pieces) // ranks)
    hands: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for piece in sorted(pieces, key=lambda piece: (-padded(piece, lengths), piece)):
        rank = min((r for r in range(ranks) if len(hands[r]) < rounds), key=lambda r: loads[r])
        hands[rank].append(piece)
        loads[rank] += padded(piece, lengths)
    return [hand + [[]] * (rounds - len(hand)) for hand in hands]
