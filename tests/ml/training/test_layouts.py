"""How items lie in rows, written out by hand."""

from typing import Any

import numpy as np
import torch

from alma_pipeline.ml.training.layouts import Item, packed, padded


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


PAIR = Item(ids(0, 11, 12), (ids(13, 14, 1), ids(15, 1)))
SINGLE = Item(ids(0), (ids(21, 1),))


def test_packed_row_holds_the_prompt_once_and_both_answers_continue_its_positions() -> None:
    rows = packed([PAIR, SINGLE])
    inputs: Any = rows.inputs
    assert inputs["input_ids"].tolist() == [[0, 11, 12, 13, 14, 1, 15, 1, 0, 21, 1]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2]]
    assert rows.labels.tolist() == [13, 14, 1, 15, 1, 21, 1]
    assert rows.positions.tolist() == [2, 3, 4, 2, 6, 8, 9]


def test_packed_sequences_hold_no_token_of_another_answer_or_item() -> None:
    rows = packed([PAIR, SINGLE])
    inputs: Any = rows.inputs
    lengths = sorted([6, 5, 3], reverse=True)
    found = [row[:length].tolist() for row, length in zip(_sequences(inputs["sequences"]), lengths, strict=True)]
    assert found == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 7], [8, 9, 10]]
    flat = torch.cat([group.flatten() for group in inputs["sequences"]])
    assert flat[inputs["places"]].tolist() == list(range(11))


def _sequences(groups: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [row for group in groups for row in group]


def test_sequences_of_unlike_lengths_are_grouped_apart() -> None:
    """One long example among short ones must not pad them all to its length."""
    items = [Item(ids(*range(400)), (ids(1),)), *[Item(ids(0, 5), (ids(6, 1),))] * 300]
    groups: Any = packed(items).inputs["sequences"]
    assert [tuple(group.shape) for group in groups] == [(1, 401), (300, 4)]


def test_padded_rows_repeat_the_prompt_and_are_masked_on_the_right() -> None:
    """B59"""
    rows = padded([PAIR, SINGLE])
    inputs: Any = rows.inputs
    assert inputs["input_ids"].tolist() == [[0, 11, 12, 13, 14, 1], [0, 11, 12, 15, 1, 0], [0, 21, 1, 0, 0, 0]]
    assert inputs["attention_mask"].sum(1).tolist() == [6, 5, 3]
    assert rows.labels.tolist() == packed([PAIR, SINGLE]).labels.tolist()
    assert rows.positions.tolist() == [2, 3, 4, 8, 9, 12, 13]
    assert "attention_mask" not in padded([SINGLE, SINGLE]).inputs
