"""Prepared rows, mixed and tokenised into the arrays that training maps into memory; can go on after a kill.

The layout is that of `blocks`. Only a batch of rows is in memory at a time.
"""

import dataclasses
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.ingest import SAVE_SECONDS, Ingestion, batched
from alma_pipeline.ml.data.mixing import RowFiles
from alma_pipeline.ml.data.npy import NpyWriter
from alma_pipeline.ml.data.prompts import BATCH, Example
from alma_pipeline.ml.data.rows import CorpusRow, line_of, part_of, row_of

Tokenise = Callable[[Sequence[CorpusRow]], list[tuple[CorpusRow, Example | None]]]
"""Rows as they are written, with their tokens; None for one too long."""


@dataclass
class WriterState:
    """How far the filling is."""

    done: int = 0
    """Places of the schedule."""
    places: dict[str, int] = field(default_factory=dict)
    """Bytes read of each part's rows."""
    bytes: int = 0
    """Of train.jsonl."""
    examples: int = 0
    tokens: int = 0
    labels: int = 0
    longest: int = 0
    merged: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    """By part, repeated rows too."""
    counted: dict[str, int] = field(default_factory=dict)
    """Rows that were kept, by direction or language."""
    too_long: int = 0


class TokenWriter:
    """`train.jsonl` and its arrays in the preparation's folder."""

    def __init__(self, preparation: Ingestion, block: int | None) -> None:
        """`block`: documents end to end; null: examples of their own lengths."""
        self.preparation, self.block = preparation, block
        self.state = WriterState(**preparation.progress.packed)
        length, examples = self.state.tokens, self.state.examples
        folder = preparation.folder
        self.tokens = NpyWriter(folder / ("train.blocks.npy" if block else "train.tokens.npy"), np.int32, length)
        self.offsets = self.prompts = None
        if not block:
            self.offsets = NpyWriter(folder / "train.offsets.npy", np.int64, examples + 1 if examples else 0)
            self.prompts = NpyWriter(folder / "train.prompt.npy", np.int32, examples)
            if not examples:
                self.offsets.append(np.zeros(1))
        self._saved = time.monotonic()

    def run(self, schedule: Iterator[str], planned: int, tokenise: Tokenise, enough: float | None = None) -> WriterState:
        """Go through the schedule of part names, of `planned` places, or until `enough` tokens are packed."""
        state, preparation = self.state, self.preparation
        paths = {part: preparation.path(part) for part in preparation.progress.kept}
        files = RowFiles(paths, state.places)
        path = preparation.folder / "train.jsonl"
        with open(path, "r+b" if state.bytes else "wb") as out:
            out.truncate(state.bytes)
            out.seek(state.bytes)
            for names in batched(itertools.islice(schedule, state.done, None), BATCH):
                if enough is not None and state.tokens >= enough:
                    break
                lines = [files.next(name) for name in names]
                self._add(tokenise([row_of(json.loads(line)) for line in lines]), names, out)
                self._save(files, out, planned)
        files.close()
        return state

    def _add(self, found: list[tuple[CorpusRow, Example | None]], names: list[str], out: Any) -> None:
        state = self.state
        kept = [(row, example) for row, example in found if example is not None]
        state.done += len(names)
        state.taken = dict(Counter(state.taken) + Counter(names))
        state.too_long += len(found) - len(kept)
        if not kept:
            return
        self._append([example for _, example in kept])
        named = Counter(part_of(row) for row, _ in kept)
        state.counted = dict(Counter(state.counted) + named)
        out.writelines(line_of(row) for row, _ in kept)

    def _append(self, examples: list[Example]) -> None:
        state = self.state
        lengths = np.asarray([len(example.ids) for example in examples], dtype=np.int64)
        prompts = np.asarray([example.prompt for example in examples], dtype=np.int32)
        self.tokens.append(np.concatenate([np.asarray(example.ids, dtype=np.int32) for example in examples]))
        if self.offsets and self.prompts:
            self.offsets.append(state.tokens + np.cumsum(lengths))
            self.prompts.append(prompts)
        state.examples += len(examples)
        state.tokens += int(lengths.sum())
        state.labels += int((lengths - prompts).sum())
        state.longest = max(state.longest, int(lengths.max()))
        state.merged += sum(example.merged for example in examples)

    def _save(self, files: RowFiles, out: Any, planned: int) -> None:
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return
        for growing in filter(None, (self.tokens, self.offsets, self.prompts)):
            growing.flush()
        out.flush()
        os.fsync(out.fileno())
        self.state.places, self.state.bytes = files.places, out.tell()
        self.preparation.progress.packed = dataclasses.asdict(self.state)
        self.preparation.save()
        self._saved = time.monotonic()
        rows = self.preparation.progress.rows
        self.preparation.job.log(rows + self.state.done, rows + planned, {"tokens": self.state.tokens})

    def finish(self, out: Path) -> dict[str, int]:
        """Whole arrays, moved to `out`; their counts. Raises UserError for less than one block."""
        state, width = self.state, self.block
        if width and state.tokens < width:
            raise UserError(f"the training text holds {state.tokens} tokens, too few for one block of block={width}")
        self.tokens.finish(width)
        for growing in filter(None, (self.offsets, self.prompts)):
            growing.finish()
        for name in ("train.jsonl", *(growing.path.name for growing in (self.tokens, self.offsets, self.prompts) if growing)):
            os.replace(self.preparation.folder / name, out / name)
        if not width:
            return {"train_examples": state.examples, "train_tokens": state.tokens, "train_labels": state.labels}
        blocks = state.tokens // width
        return {
            "train_examples": blocks,
            "train_tokens": blocks * width,
            "train_labels": blocks * (width - 1),
            "remainder_tokens": state.tokens - blocks * width,
        }


def count_repeated(taken: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Rows that were taken a second time or more often."""
    return sum(max(0, count - sizes[name]) for name, count in taken.items())
