"""A corpus on disk: text lines beside token arrays, in the layout the training stages map into memory.

train.jsonl, dev.jsonl              rows of text, one JSON object a line
{split}.tokens.npy                  int32 [total], examples end to end
{split}.offsets.npy                 int64 [examples + 1], where each example starts and the last one ends
{split}.prompt.npy                  int32 [examples], tokens without loss at the start, BOS included
{split}.bytes.npy                   int32 [examples], UTF-8 bytes of a document (dev of monolingual text only)
train.blocks.npy                    int32 [blocks, block]
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alma_pipeline.errors import PipelineError
from alma_pipeline.ml.data.npy import NpyReader
from alma_pipeline.ml.data.prompts import BATCH, Example


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Dataclass rows as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")


def document_examples(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Example]:
    """Each text stripped, as BOS, tokens, EOS; the prompt is the BOS alone."""
    result = []
    for start in range(0, len(texts), BATCH):
        batch = [text.strip() for text in texts[start : start + BATCH]]
        encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        result += [Example([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], prompt=1, merged=False) for ids in encoded]
    return result


def write_examples(out: Path, split: str, examples: Sequence[Example]) -> dict[str, int]:
    """Examples of their own lengths. Returns their count, tokens, labels and the longest."""
    lengths = np.asarray([len(example.ids) for example in examples], dtype=np.int64)
    prompts = np.asarray([example.prompt for example in examples], dtype=np.int32)
    _save(out / f"{split}.tokens.npy", np.concatenate([np.asarray(e.ids, dtype=np.int32) for e in examples]))
    _save(out / f"{split}.offsets.npy", np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]))
    _save(out / f"{split}.prompt.npy", prompts)
    return {
        "examples": len(examples),
        "tokens": int(lengths.sum()),
        "labels": int((lengths - prompts).sum()),
        "longest": int(lengths.max()),
    }


def write_bytes(out: Path, split: str, texts: Sequence[str]) -> None:
    """The UTF-8 length of each stripped text, what bits per byte are counted over."""
    _save(out / f"{split}.bytes.npy", np.asarray([len(text.strip().encode()) for text in texts], dtype=np.int32))


def _save(path: Path, array: "np.ndarray[Any, Any]") -> None:
    np.save(path, array, allow_pickle=False)


AnyExample = TypeVar("AnyExample")


NumberArray = NDArray[Any] | NpyReader


CHUNK = 2**16
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
class Split(Generic[AnyExample]):
    """Examples, and the two facts about them that would take a pass over all to find."""

    examples: Sequence[AnyExample]
    tokens: int
    """Sum of the examples' lengths."""
    longest: int
    """Largest length of one."""


class Sequences(Sequence[Tokens]):
    """Sequences of any lengths in one flat array, read from disk as they are asked for."""

    def __init__(self, ids: NpyReader, offsets: NpyReader | range, prompts: NumberArray, sizes: NumberArray) -> None:
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
    blocks = NpyReader(folder / f"{name}.blocks.npy")
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
    offsets, prompts = NpyReader(folder / f"{name}.offsets.npy"), NpyReader(folder / f"{name}.prompt.npy")
    sizes = folder / f"{name}.bytes.npy"
    tokens, longest = _checked(offsets, prompts, f"{folder}/{name}")
    examples = Sequences(
        ids=NpyReader(folder / f"{name}.tokens.npy"),
        offsets=offsets,
        prompts=prompts,
        sizes=NpyReader(sizes) if sizes.is_file() else np.broadcast_to(np.int64(0), len(prompts)),
    )
    return Split(examples, tokens, longest)


def _checked(offsets: NumberArray, prompts: NumberArray, name: str) -> tuple[int, int]:
    """Tokens of all examples and of the longest, found a stretch at a time: memory does not grow with the corpus."""
    tokens = longest = 0
    for start in range(0, len(prompts), CHUNK):
        ends, lengths = prompts[start : start + CHUNK], np.diff(offsets[start : start + CHUNK + 1])
        wrong = np.flatnonzero((ends < 1) | (ends >= lengths))
        if len(wrong):
            first = wrong[0]
            raise PipelineError(
                f"{name}: example {start + first} has {lengths[first]} tokens, {ends[first]} of them prompt; "
                "expected at least one of each, prompt and label"
            )
        tokens, longest = tokens + int(lengths.sum()), max(longest, int(lengths.max()))
    return tokens, longest
