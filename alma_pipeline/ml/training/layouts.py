"""How prompts and their answers lie in the rows of a micro-batch: end to end without padding, or a row for each answer.

Knows no model and no loss. An item is a prompt and one answer or more; every token of an answer is a label, predicted
from the token before it. Labels stand in the same order in both layouts: item by item, answer by answer.

packed    one row: prompt, answer, answer, prompt, ... The prompt stands once; each answer continues its positions and
          sees the prompt and itself. Right where the model attends through `attention.packed_attention`
padded    a row of prompt and answer for each answer, padded on the right. Right for any causal model
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alma_pipeline.ml.training.batching import cuts

GROUP_TOKENS = 64
"""What one more group costs in attention, in tokens of padding (our choice: a call is some 0.1 ms)."""
NO_MASK = (1, 1, 1, 1)
"""Shape of the stand-in for a mask: a model takes four dimensions for a finished mask and builds none of its own."""
Bounds = tuple[Tensor, Tensor, int]
"""Of n sequences in a row: [n + 1] int32 where their queries begin and end, [n + 1] their keys, and the longest's keys."""


class Item(NamedTuple):
    """One prompt and its answers, as token ids."""

    prompt: NDArray[np.int32]
    """At least one token."""
    answers: tuple[NDArray[np.int32], ...]


class Rows(NamedTuple):
    """The rows of a micro-batch on the CPU, and where their labels are predicted."""

    inputs: dict[str, Tensor | tuple[Tensor, ...] | Bounds]
    """The model's own arguments."""
    positions: Tensor
    """[labels] indices of the flattened hidden states."""
    labels: Tensor
    """[labels] token ids."""


def packed(items: Sequence[Item]) -> Rows:
    """All items in one row `input_ids` [1, tokens]; for no items one token that nothing is predicted from."""
    ids, positions, predicted = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    sequences: list[NDArray[np.int64]] = []
    queries: list[int] = []
    start = 0
    for prompt, answers in items:
        stem = np.arange(start, start + len(prompt))
        start += len(prompt)
        ids.append(prompt)
        positions.append(np.arange(len(prompt)))
        for number, answer in enumerate(answers):
            queries.append(len(answer) + (0 if number else len(prompt)))
            places = np.concatenate([stem, np.arange(start, start + len(answer))])
            start += len(answer)
            ids.append(answer)
            positions.append(np.arange(len(prompt), len(places)))
            sequences.append(places)
            predicted.append(places[len(prompt) - 1 : -1])
    if not items:
        ids, positions, sequences, queries = [np.zeros(1, np.int32)], [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [1]
    row, at = np.concatenate(ids)[None], np.concatenate(positions)[None]
    groups, places = _groups(sequences, row.size)
    keys = np.concatenate(sequences)
    inputs: dict[str, Tensor | tuple[Tensor, ...] | Bounds] = {
        "input_ids": _tensor(row),
        "position_ids": _tensor(at),
        "attention_mask": torch.zeros(NO_MASK),
        "sequences": tuple(map(_tensor, groups)),
        "bounds": (_bounds(queries), _bounds(list(map(len, sequences))), max(map(len, sequences))),
    }
    if len(keys) > row.size:
        inputs["keys"] = _tensor(keys)
    # Sequences of one length in a row of their own order need no taking apart.
    if len(groups) > 1 or not np.array_equal(groups[0].ravel(), np.arange(row.size)):
        inputs["places"] = _tensor(places)
    return Rows(inputs, _tensor(np.concatenate(predicted)), _labels(items))


def padded(items: Sequence[Item]) -> Rows:
    """`input_ids` [answers, longest], and `attention_mask` where there is padding."""
    answers = [(prompt, answer) for prompt, found in items for answer in found]
    width = max((len(prompt) + len(answer) for prompt, answer in answers), default=1)
    ids = np.zeros((max(len(answers), 1), width), np.int64)
    real = np.zeros_like(ids)
    predicted = [np.zeros(0, np.int64)]
    for row, (prompt, answer) in enumerate(answers):
        end = len(prompt) + len(answer)
        ids[row, :end] = np.concatenate([prompt, answer])
        real[row, :end] = 1
        predicted.append(row * width + np.arange(len(prompt) - 1, end - 1))
    inputs: dict[str, Tensor | tuple[Tensor, ...] | Bounds] = {"input_ids": _tensor(ids)}
    if answers and not real.all():
        inputs["attention_mask"] = _tensor(real)
    return Rows(inputs, _tensor(np.concatenate(predicted)), _labels(items))


def _groups(sequences: Sequence[NDArray[np.int64]], tokens: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The sequences in rectangles [n, length] of little padding, and [tokens] where each token stands in them."""
    by_length = sorted(sequences, key=len, reverse=True)
    lengths = [len(sequence) for sequence in by_length]
    groups, places, start = [], np.zeros(tokens, np.int64), 0
    for first, last in cuts(lengths, lengths[0] * len(lengths), GROUP_TOKENS):
        group = np.zeros((last - first, lengths[first]), np.int64)
        for row, sequence in enumerate(by_length[first:last]):
            group[row, : len(sequence)] = sequence
            # A prompt's tokens stand in the sequence of each answer, equal in all of them.
            places[sequence] = start + row * group.shape[1] + np.arange(len(sequence))
        groups.append(group)
        start += group.size
    return groups, places


def _bounds(sizes: list[int]) -> Tensor:
    return torch.from_numpy(np.cumsum([0, *sizes], dtype=np.int32))


def _labels(items: Sequence[Item]) -> Tensor:
    return _tensor(np.concatenate([np.zeros(0, np.int32), *(answer for _, answers in items for answer in answers)]))


def _tensor(array: NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64, copy=False))
