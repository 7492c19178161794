"""The files of a tokenised corpus: written by the corpus stage, read as examples by the training stages. Knows no model.

train.jsonl, dev.jsonl              rows of text, one JSON object per line
{split}.tokens.npy                  int32 [total], the token ids of all examples, concatenated
{split}.offsets.npy                 int64 [examples + 1], where each example starts, and where the last one ends
{split}.prompt.npy                  int32 [examples], leading tokens without loss, BOS included
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

CHUNK = 2**16
"""Examples checked at a time when a corpus is opened."""
AnyExample = TypeVar("AnyExample")
NumberArray = NDArray[Any] | NpyReader


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write dataclass rows as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")


def document_examples(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Example]:
    """Each text, stripped, as BOS, tokens, EOS; the prompt is BOS alone."""
    result = []
    for start in range(0, len(texts), BATCH):
        batch = [text.strip() for text in texts[start : start + BATCH]]
        encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        result += [Example([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], prompt=1, merged=False) for ids in encoded]
    return result


def write_examples(out: Path, split: str, examples: Sequence[Example]) -> dict[str, int]:
    """Write examples of different lengths. Returns their number, tokens and labels, and the greatest length."""
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
    """Write the UTF-8 length of each stripped text, the denominator of bits per byte."""
    _save(out / f"{split}.bytes.npy", np.asarray([len(text.strip().encode()) for text in texts], dtype=np.int32))


def _save(path: Path, array: "np.ndarray[Any, Any]") -> None:
    np.save(path, array, allow_pickle=False)


class Tokens(NamedTuple):
    """One sequence of token ids, which starts with a prompt without loss."""

    ids: NDArray[np.int32]
    """[length]"""
    prompt: int
    """Length of the prompt; at least 1, because nothing precedes the first token to predict it from."""
    bytes: int = 0
    """UTF-8 bytes of the text that the labels encode; 0 if unknown."""


@dataclass(frozen=True)
class Split(Generic[AnyExample]):
    """Examples, and two numbers that would take a pass over all of them to compute."""

    examples: Sequence[AnyExample]
    tokens: int
    """Sum of the examples' lengths."""
    longest: int
    """Length of the longest example."""


class Sequences(Sequence[Tokens]):
    """Sequences of any lengths in one flat array, read from disk on access."""

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
    """The packed blocks of `<name>.blocks.npy` [n, block]; every token except a block's first has loss."""
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
    """The sequences of `<name>.{tokens,offsets,prompt}.npy`, with `<name>.bytes.npy` if it exists.

    Raises PipelineError if a sequence has no prompt token to predict from, or no label.
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
    """Tokens of all examples, and of the longest. Reads in chunks, so that memory does not grow with the corpus."""
    tokens = longest = 0
    for start in range(0, len(prompts), CHUNK):
        ends, lengths = prompts[start : start + CHUNK], np.diff(offsets[start : start + CHUNK + 1])
        # Without a prompt token, the first label has nothing to be predicted from; without a label, there is no loss (B58).
        wrong = np.flatnonzero((ends < 1) | (ends >= lengths))
        if len(wrong):
            first = wrong[0]
            raise PipelineError(
                f"{name}: example {start + first} has {lengths[first]} tokens, {ends[first]} of them prompt; "
                "expected at least one prompt token and one label"
            )
        tokens, longest = tokens + int(lengths.sum()), max(longest, int(lengths.max()))
    return tokens, longest
