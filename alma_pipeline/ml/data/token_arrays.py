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
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

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
