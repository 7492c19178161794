"""Token arrays of a corpus, read as examples. Knows no model; the arrays are written by the corpus stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from alma_pipeline.errors import PipelineError
from alma_pipeline.ml.data.npy import Stored

Example = TypeVar("Example")
Numbers = NDArray[Any] | Stored
STRETCH = 2**16
"""Examples that are looked at together when a corpus is opened."""


class Tokens(NamedTuple):
    """One sequence: its ids, and how many of them are a prompt without loss."""

    ids: NDArray[np.int32]
    """[length]"""
    prompt: int
    """At least 1: the first token has nothing before it to be predicted from."""
    bytes: int = 0
    """UTF-8 bytes of the text behind the labels; 0 where it is not known."""


@dataclass(frozen=True)
class Split(Generic[Example]):
    """Examples, and the two facts about them that would take a pass over all to find."""

    examples: Sequence[Example]
    tokens: int
    """Sum of the examples' lengths."""
    longest: int
    """Largest length of one."""


class Sequences(Sequence[Tokens]):
    """Sequences of any lengths in one flat array, read from disk as they are asked for."""

    def __init__(self, ids: Stored, offsets: Stored | range, prompts: Numbers, sizes: Numbers) -> None:
        """`ids` [tokens]; `offsets` [n + 1]; `prompts` [n] lengths of the prompts; `sizes` [n] bytes of text, or 0."""
        self.ids, self.offsets, self.prompts, self.sizes = ids, offsets, prompts, sizes

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ids = self.ids[int(self.offsets[index]) : int(self.offsets[index + 1])]
        return Tokens(ids, int(self.prompts[index]), int(self.sizes[index]))


def read_blocks(folder: Path, name: str) -> Split[Tokens]:
    """The packed blocks `<name>.blocks.npy` [n, block]; every token but a block's first bears loss."""
    blocks = Stored(folder / f"{name}.blocks.npy")
    count, length = blocks.shape
    examples = Sequences(
        ids=blocks,
        offsets=range(0, len(blocks) + 1, length),
        prompts=np.broadcast_to(np.int32(1), count),
        sizes=np.broadcast_to(np.int64(0), count),
    )
    return Split(examples, len(blocks), length)


def read_sequences(folder: Path, name: str) -> Split[Tokens]:
    """The sequences `<name>.{tokens,offsets,prompt}.npy`, with `<name>.bytes.npy` where there is one.

    Raises PipelineError for one without a prompt token to predict from, or without a label.
    """
    offsets, prompts = Stored(folder / f"{name}.offsets.npy"), Stored(folder / f"{name}.prompt.npy")
    sizes = folder / f"{name}.bytes.npy"
    tokens, longest = _checked(offsets, prompts, f"{folder}/{name}")
    examples = Sequences(
        ids=Stored(folder / f"{name}.tokens.npy"),
        offsets=offsets,
        prompts=prompts,
        sizes=Stored(sizes) if sizes.is_file() else np.broadcast_to(np.int64(0), len(prompts)),
    )
    return Split(examples, tokens, longest)


def _checked(offsets: Numbers, prompts: Numbers, name: str) -> tuple[int, int]:
    """Tokens of all examples and of the longest, found a stretch at a time: memory does not grow with the corpus."""
    tokens = longest = 0
    for start in range(0, len(prompts), STRETCH):
        ends, lengths = prompts[start : start + STRETCH], np.diff(offsets[start : start + STRETCH + 1])
        wrong = np.flatnonzero((ends < 1) | (ends >= lengths))
        if len(wrong):
            first = wrong[0]
            raise PipelineError(
                f"{name}: example {start + first} has {lengths[first]} tokens, {ends[first]} of them prompt; "
                "expected at least one of each, prompt and label"
            )
        tokens, longest = tokens + int(lengths.sum()), max(longest, int(lengths.max()))
    return tokens, longest
