"""Which examples a step trains on, and how they are split into micro-batches over ranks.

A micro-batch is one packed row, whose size is the sum of its examples' lengths, or several padded rows. Pure functions of
numbers: every rank computes the same split without communication.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from alma_pipeline.errors import UserError


@lru_cache(maxsize=2)
def epoch_order(examples: int, seed: int, epoch: int) -> NDArray[np.unsignedinteger]:
    """[examples] a permutation of the indices, a new one for each epoch.

    The only memory here that grows with the set: four bytes an example.
    """
    indices = np.arange(examples, dtype=np.min_scalar_type(max(examples, 2**16)))
    np.random.default_rng([seed, epoch]).shuffle(indices)
    return indices


def global_batch_size(step: int, size: int, examples: int, seed: int) -> list[int]:
    """Indices of the `size` examples of optimiser step `step`, counted from 0.

    Batches continue across the end of an epoch, so none is short; a batch larger than the set contains some examples twice.
    """
    places = range(step * size, (step + 1) * size)
    return [int(epoch_order(examples, seed, place // examples)[place % examples]) for place in places]


def check_budget(longest: int, micro_batch_tokens: int, name: str) -> None:
    """Raises UserError if the longest example of the set `name` exceeds a micro-batch's token budget."""
    if longest > micro_batch_tokens:
        raise UserError(
            f"hardware.micro_batch_tokens={micro_batch_tokens}, but the longest {name} example takes {longest} tokens; "
            f"set hardware.micro_batch_tokens to {longest} or more, or shorten the corpus's examples"
        )


def packed_batches(lengths: Sequence[int], budget: int, ranks: int) -> list[list[list[int]]]:
    """For each rank, its micro-batches as lists of positions in `lengths`; the same number for each, padded with empty ones.

    A micro-batch holds at most `budget` tokens. Best fit gives the number of rows needed, rounded up to a multiple of the
    ranks; the examples are then spread so that the rows are nearly equal.
    """
    rows = best_fit(lengths, budget)
    even = _spread(lengths, min(-(-len(rows) // ranks) * ranks, len(lengths)))
    if all(_sum(row, lengths) <= budget for row in even):
        rows = even
    return _deal(rows, [_sum(row, lengths) for row in rows], ranks)


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows of positions whose lengths sum to at most `budget`: longest first, each into the fullest row that has room.

    Best fit decreasing needs at most 11/9 of the optimal number of rows, plus a constant (Johnson et al. 1974).
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # sorted by free tokens: (free tokens, row)
    for place in _falling(lengths):
        at = bisect_left(rooms, (lengths[place], -1))
        room, row = rooms.pop(at) if at < len(rooms) else (budget, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        insort(rooms, (room - lengths[place], row))
    return rows


def padded_batches(lengths: Sequence[int], budget: int, ranks: int, overhead: int) -> list[list[list[int]]]:
    """As `packed_batches`, for rows padded to the longest of their micro-batch: rows times longest is at most `budget`.

    Examples are sorted by length and cut so that padded tokens plus `overhead` tokens per micro-batch are fewest.
    """
    by_length = _falling(lengths)
    pieces = [[by_length[i] for i in range(*cut)] for cut in padded_spans([lengths[i] for i in by_length], budget, overhead)]
    _fill_rounds(pieces, lengths, ranks)
    return _deal(pieces, [padded_tokens(piece, lengths) for piece in pieces], ranks)


def padded_tokens(piece: Sequence[int], lengths: Sequence[int]) -> int:
    """Tokens of a micro-batch, padding included."""
    return len(piece) * max((lengths[place] for place in piece), default=0)


def padded_spans(lengths: list[int], budget: int, overhead: int) -> list[tuple[int, int]]:
    """Spans [start, end) of descending `lengths` that fit the budget when padded, at the least total cost.

    The cost is the padded tokens plus `overhead` per span; solved by dynamic programming.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    cost = np.zeros(len(sizes) + 1, dtype=np.int64)  # cost[i]: the least for the first i examples
    start = np.zeros(len(sizes) + 1, dtype=np.int64)
    first = 0
    for end in range(1, len(sizes) + 1):
        # A span's first example is its longest, so the spans that fit are those that start late enough.
        while (end - first) * sizes[first] > budget:
            first += 1
        candidates = cost[first:end] + sizes[first:end] * (end - np.arange(first, end)) + overhead
        best = int(candidates.argmin())
        cost[end], start[end] = candidates[best], first + best
    # Walk back from the end through the best start of each span.
    spans, end = [], len(sizes)
    while end:
        spans.append((int(start[end]), end))
        end = int(start[end])
    return spans[::-1]


def _fill_rounds(pieces: list[list[int]], lengths: Sequence[int], ranks: int) -> None:
    """Halve the costliest micro-batches until every rank gets the same number, so that none waits."""
    while len(pieces) % ranks:
        divisible = [piece for piece in pieces if len(piece) > 1]
        if not divisible:
            return
        largest = max(divisible, key=lambda piece: padded_tokens(piece, lengths))
        pieces.append(largest[len(largest) // 2 :])
        del largest[len(largest) // 2 :]


def _falling(lengths: Sequence[int]) -> list[int]:
    """Positions by descending length; equal lengths in their order."""
    return sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))


def _sum(piece: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[place] for place in piece)


def _spread(lengths: Sequence[int], count: int) -> list[list[int]]:
    """`count` rows of nearly equal sums: longest first, each into the shortest row so far."""
    rows: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, row) for row in range(count)]
    for place in _falling(lengths):
        size, row = heap[0]
        rows[row].append(place)
        heapreplace(heap, (size + lengths[place], row))
    return rows


def _deal(pieces: list[list[int]], costs: list[int], ranks: int) -> list[list[list[int]]]:
    """Deal micro-batches to ranks, costliest first, each to the least loaded rank with a free round."""
    rounds = -(-len(pieces) // ranks)
    hands: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for cost, piece in sorted(zip(costs, pieces, strict=True), key=lambda found: (-found[0], found[1])):
        rank = min((r for r in range(ranks) if len(hands[r]) < rounds), key=lambda r: loads[r])
        hands[rank].append(piece)
        loads[rank] += cost
    return [hand + [[]] * (rounds - len(hand)) for hand in hands]
