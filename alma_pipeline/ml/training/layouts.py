"""How prompts and answers are arranged in the rows of a micro-batch: packed without padding, or one padded row per answer.

An item is a prompt with one or more answers; every token of an answer is a label, predicted from the token before it.
Both layouts give the labels in the same order: item by item, answer by answer. Independent of models and losses.

packed    one row: prompt, answer, answer, prompt, ... The prompt occurs once; each answer continues its positions and
          attends to the prompt and itself. Correct if the model attends through `attention.packed_attention`
padded    a row of prompt and answer for each answer, padded on the right. Correct for any causal model
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alma_pipeline.ml.training.batching import padded_spans

GROUP_TOKENS = 64
"""Cost of one more group in attention, in tokens of padding (our choice: a call takes about 0.1 ms)."""
NO_MASK = (1, 1, 1, 1)
"""Shape of a placeholder mask: a model takes a 4-D mask as final and builds none of its own."""
Bounds = tuple[Tensor, Tensor, int]
"""For n sequences in a row: query offsets [n + 1] int32, key offsets [n + 1] int32, and the longest sequence's keys."""


class Item(NamedTuple):
    """One prompt and its answers, as token ids."""

    prompt: NDArray[np.int32]
    """[prompt tokens], at least one."""
    answers: tuple[NDArray[np.int32], ...]
    """Each [answer tokens]."""


class Rows(NamedTuple):
    """The rows of a micro-batch on the CPU, and where their labels are predicted."""

    inputs: dict[str, Tensor | tuple[Tensor, ...] | Bounds]
    """The model's keyword arguments."""
    positions: Tensor
    """[labels] indices into the flattened hidden states, each the position that predicts the label."""
    labels: Tensor
    """[labels] token ids."""


def packed(items: Sequence[Item]) -> Rows:
    """All items in one row `input_ids` [1, tokens]; without items, one token that predicts nothing."""
    ids, positions, predicted = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    sequences: list[NDArray[np.int64]] = []
    queries: list[int] = []
    start = 0
    # Write each prompt once; every answer becomes a sequence of the prompt's positions and its own.
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
    # A rank without examples still runs a forward pass, so the row may not be empty.
    if not items:
        ids, positions, sequences, queries = [np.zeros(1, np.int32)], [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [1]
    # Describe the sequences twice: as padded groups, and as offsets for a variable-length kernel.
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
    # Keys must be gathered only if some prompt serves several answers.
    if len(keys) > row.size:
        inputs["keys"] = _tensor(keys)
    # Sequences of equal length in row order already form the group, so nothing needs to be gathered.
    if len(groups) > 1 or not np.array_equal(groups[0].ravel(), np.arange(row.size)):
        inputs["places"] = _tensor(places)
    return Rows(inputs, _tensor(np.concatenate(predicted)), _labels(items))


def padded(items: Sequence[Item]) -> Rows:
    """`input_ids` [answers, longest], and an `attention_mask` of the same shape if there is padding."""
    answers = [(prompt, answer) for prompt, found in items for answer in found]
    width = max((len(prompt) + len(answer) for prompt, answer in answers), default=1)
    # At least one row, for a rank without examples.
    ids = np.zeros((max(len(answers), 1), width), np.int64)
    real = np.zeros_like(ids)
    predicted = [np.zeros(0, np.int64)]
    # Pad on the right, so that positions count from the first token.
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
    """The sequences as rectangles [n, length] with little padding, and each token's place [tokens] in them, flattened."""
    by_length = sorted(sequences, key=len, reverse=True)
    lengths = [len(sequence) for sequence in by_length]
    groups, places, start = [], np.zeros(tokens, np.int64), 0
    # Few groups mean few attention calls, many mean less padding: `padded_spans` weighs the two.
    for first, last in padded_spans(lengths, lengths[0] * len(lengths), GROUP_TOKENS):
        group = np.zeros((last - first, lengths[first]), np.int64)
        for row, sequence in enumerate(by_length[first:last]):
            group[row, : len(sequence)] = sequence
            # A prompt's tokens are in the sequence of each answer, with equal outputs; the last place wins.
            places[sequence] = start + row * group.shape[1] + np.arange(len(sequence))
        groups.append(group)
        start += group.size
    return groups, places


def _bounds(sizes: list[int]) -> Tensor:
    """[n + 1] int32 offsets of consecutive sequences."""
    return torch.from_numpy(np.cumsum([0, *sizes], dtype=np.int32))


def _labels(items: Sequence[Item]) -> Tensor:
    """[labels] ids of all answers, in order."""
    return _tensor(np.concatenate([np.zeros(0, np.int32), *(answer for _, answers in items for answer in answers)]))


def _tensor(array: NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64, copy=False))
