"""Order of examples and cutting of batches: pure functions, checked over many random cases."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.ml.training.batching import (
    best_fit,
    check_budget,
    epoch_order,
    global_batch_size,
    packed_batches,
    padded_batches,
    padded_tokens,
)


def test_order_is_a_permutation_of_its_own_for_each_seed_and_epoch() -> None:
    orders = [epoch_order(50, seed, epoch).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(found) == list(range(50)) for found in orders)
    assert all(a != b for a, b in combinations(orders, 2))


def test_order_is_the_same_in_every_process() -> None:
    """Golden: a resumed run must find the order of the first (B10)."""
    assert epoch_order(8, 42, 3).tolist() == [3, 1, 2, 7, 0, 5, 4, 6]


def test_batches_run_on_over_the_end_of_an_epoch() -> None:
    stream = [place for step in range(7) for place in global_batch_size(step, 6, 14, seed=5)]
    for epoch in range(3):
        assert stream[14 * epoch : 14 * (epoch + 1)] == epoch_order(14, 5, epoch).tolist()


def test_batch_larger_than_the_set_holds_examples_twice() -> None:
    assert Counter(global_batch_size(0, 10, 4, seed=0)).most_common(1)[0][1] == 3


def random_cases() -> list[tuple[list[int], int, int]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(1, 60, rng.integers(1, 40)).tolist(), int(rng.integers(60, 400)), int(rng.integers(1, 5)))
        for _ in range(60)
    ]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_each_example_falls_to_one_rank_once_and_rounds_are_equal(layout: str) -> None:
    """B5: budgets and ranks never change what a global batch is."""
    for lengths, budget, ranks in random_cases():
        is_packed = layout == "packed"
        hands = packed_batches(lengths, budget, ranks) if is_packed else padded_batches(lengths, budget, ranks, overhead=16)
        assert len(hands) == ranks
        assert len({len(hand) for hand in hands}) == 1
        pieces = [piece for hand in hands for piece in hand]
        assert sorted(place for piece in pieces for place in piece) == list(range(len(lengths)))
        assert all((total(piece, lengths) if is_packed else padded_tokens(piece, lengths)) <= budget for piece in pieces)
        # Empty micro-batches only where there are not enough examples to go round.
        assert len(lengths) < ranks * len(hands[0]) or all(pieces)


def total(piece: list[int], lengths: list[int]) -> int:
    return sum(lengths[place] for place in piece)


def test_best_fit_fills_the_fullest_row_that_has_room() -> None:
    lengths = [4, 3, 7, 3, 2]
    assert best_fit(lengths, 10) == [[2, 1], [0, 3, 4]]
    assert best_fit([], 10) == []


def test_packed_rows_are_few_and_full() -> None:
    """Best fit decreasing stays within 11/9 of the fewest rows there can be; on sentences it leaves next to no room."""
    lengths = np.random.default_rng(3).integers(20, 160, 500).tolist()
    rows = packed_batches(lengths, 1024, 1)[0]
    assert len(rows) <= 1.02 * sum(lengths) / 1024 + 1
    assert max(total(row, lengths) for row in rows) <= min(1024, 1.02 * sum(lengths) / len(rows))


def test_cut_is_the_cheapest_there_is() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        lengths, budget, overhead = sorted(rng.integers(1, 20, 8).tolist())[::-1], 60, 7
        found = padded_batches(lengths, budget, 1, overhead)[0]
        cost = sum(padded_tokens(piece, lengths) + overhead for piece in found)
        assert cost == cheapest(lengths, budget, overhead)


def cheapest(lengths: list[int], budget: int, overhead: int) -> int:
    """By trying every way to cut the sorted lengths."""
    costs = []
    for count in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), count):
            spans = list(zip((0, *cuts), (*cuts, len(lengths)), strict=True))
            if all((end - start) * lengths[start] <= budget for start, end in spans):
                costs.append(sum((end - start) * lengths[start] + overhead for start, end in spans))
    return min(costs)


def test_load_is_balanced_over_ranks() -> None:
    lengths = np.random.default_rng(2).integers(5, 60, 256).tolist()
    loads = [sum(padded_tokens(piece, lengths) for piece in hand) for hand in padded_batches(lengths, 512, 4, overhead=16)]
    assert max(loads) < 1.1 * min(loads)
    rounds = zip(*packed_batches(lengths, 512, 4), strict=True)
    for round_ in rounds:
        sizes = [total(piece, lengths) for piece in round_]
        assert max(sizes) < 1.1 * min(sizes)


def test_budget_below_the_longest_example_names_both_numbers() -> None:
    """B5"""
    check_budget(64, 64, "training")
    with pytest.raises(UserError, match=r"hardware.micro_batch_tokens=63, but the longest dev example takes 64 tokens") as error:
        check_budget(64, 63, "dev")
    assert "set hardware.micro_batch_tokens to 64" in str(error.value)
