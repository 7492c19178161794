"""The shortcut to the likeliest pieces against sorting them all."""

import pytest
import torch

from alma_pipeline.ml.decoding.search import BLOCK, fast_topk


@pytest.mark.parametrize("vocabulary", [7, 40 * BLOCK, 40 * BLOCK + 1, 49152, 50 * BLOCK - 1])
def test_equals_topk(vocabulary: int) -> None:
    torch.manual_seed(vocabulary)
    logits = torch.randn(3, 4, vocabulary)
    values, ids = fast_topk(logits, 7)
    expected = logits.topk(7)
    assert torch.equal(values, expected[0]) and torch.equal(ids, expected[1])


def test_all_of_them_in_one_block_or_behind_the_last_one() -> None:
    """Nothing is lost where the best are neighbours, or stand in the part that fills no block."""
    for start in (5 * BLOCK + 3, 40 * BLOCK):
        logits = torch.zeros(2, 40 * BLOCK + 9)
        logits[:, start : start + 9] = torch.arange(1.0, 10.0)
        values, ids = fast_topk(logits, 9)
        assert values.tolist() == [list(range(9, 0, -1))] * 2
        assert ids.tolist() == [list(range(start + 8, start - 1, -1))] * 2


def test_impossible_pieces_and_equal_values() -> None:
    logits = torch.full((1, 48 * BLOCK), -torch.inf)
    logits[0, [3, 999]] = 1.0
    values, ids = fast_topk(logits, 5)
    assert values.tolist() == [[1.0, 1.0] + [-torch.inf] * 3]
    assert set(ids[0, :2].tolist()) == {3, 999} and len(set(ids[0].tolist())) == 5
