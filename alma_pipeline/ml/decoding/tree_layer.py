"""One layer's part of a decoding tree's cache: a fixed block of memory, seen as rows of columns.

The block stays where it is while its rows and columns change, so that a recorded step still finds it.
"""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class TreeLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [R, heads, C, size]; a step writes its tokens into the columns `place` [w] of every row."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = place
        self.is_initialized = True
        self.keys = self.values = torch.empty(0, 0, 0, 0)
        self.blocks = [torch.empty(0), torch.empty(0)]
        self.shape, self.tokens = (0, 0), 0

    def get_seq_length(self) -> int:
        """Number of columns, free ones included."""
        return self.shape[1]

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write the new tokens of a step, [R, heads, w, size]; returns all columns."""
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values

    def change(self, rows: Tensor, columns: Tensor, shape: tuple[int, int], tokens: int) -> None:
        """Keep `columns` [S, L] of `rows` [S], as the first of `shape` (R, C), in blocks for `tokens` tokens, at least R x C."""
        self.shape, self.tokens = shape, tokens
        if len(rows):
            self.keys = self._kept(0, self.keys, rows, columns)
            self.values = self._kept(1, self.values, rows, columns)

    def write(self, first: int, key_states: Tensor, value_states: Tensor) -> None:
        """Write the first columns of prompts, [prompts, heads, length, size], into the rows from `first` on."""
        if not first:
            self.keys, self.values = self._view(0, key_states), self._view(1, value_states)
        after = first + len(key_states)
        self.keys[first:after, :, : key_states.shape[2]] = key_states
        self.values[first:after, :, : value_states.shape[2]] = value_states

    def _kept(self, block: int, old: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The new view with what is kept of the old one; both share memory, so it is copied out first."""
        index = columns[:, None, :, None].expand(-1, old.shape[1], -1, old.shape[3])
        kept = old[rows].gather(2, index)
        view = self._view(block, kept)
        view[: len(rows), :, : kept.shape[2]] = kept
        return view

    def _view(self, block: int, like: Tensor) -> Tensor:
        """[R, heads, C, size] of a block, all 0: masked values must be finite. A block that is too small is replaced."""
        (rows, columns), (_, heads, _, size) = self.shape, like.shape
        if self.blocks[block].numel() < self.tokens * heads * size:
            self.blocks[block] = like.new_empty(self.tokens * heads * size)
        return self.blocks[block][: rows * heads * columns * size].view(rows, heads, columns, size).zero_()


class PromptReader(DynamicLayer):  # type: ignore[misc]
    """Stands in for a layer's cache while prompts are read, and copies their keys and values into its rows from `first` on."""

    def __init__(self, layer: TreeLayer, first: int) -> None:
        super().__init__()
        self.layer, self.first = layer, first
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Prompts are read from their start."""
        return 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Copy the prompts' keys and values; attention sees these alone."""
        self.layer.write(self.first, key_states, value_states)
        return key_states, value_states
