"""Mixes and tokenises stored rows into the arrays of `token_arrays`, one batch in memory at a time. Resumes after a kill."""

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
"""Rows as they are to be written, each with its tokens; None if it is too long."""


@dataclass
class WriterState:
    """How far the writing has come; stored in the manifest."""

    done: int = 0
    """Positions of the schedule processed."""
    places: dict[str, int] = field(default_factory=dict)
    """Byte offset in each part's file of rows."""
    bytes: int = 0
    """Size of train.jsonl."""
    examples: int = 0
    tokens: int = 0
    labels: int = 0
    longest: int = 0
    merged: int = 0
    """Examples whose prompt and answer the tokenizer would have joined at the boundary."""
    taken: dict[str, int] = field(default_factory=dict)
    """Rows read of each part, repeats included."""
    counted: dict[str, int] = field(default_factory=dict)
    """Rows written, by direction or language."""
    too_long: int = 0


class TokenWriter:
    """Writes `train.jsonl` and its arrays, in the ingestion's folder until `finish`."""

    def __init__(self, ingestion: Ingestion, block: int | None) -> None:
        """`block`: length of the blocks that documents are packed into; None writes examples of different lengths."""
        self.ingestion, self.block = ingestion, block
        self.state = WriterState(**ingestion.progress.packed)
        length, examples = self.state.tokens, self.state.examples
        folder = ingestion.folder
        self.tokens = NpyWriter(folder / ("train.blocks.npy" if block else "train.tokens.npy"), np.int32, length)
        self.offsets = self.prompts = None
        if not block:
            self.offsets = NpyWriter(folder / "train.offsets.npy", np.int64, examples + 1 if examples else 0)
            self.prompts = NpyWriter(folder / "train.prompt.npy", np.int32, examples)
            if not examples:
                self.offsets.append(np.zeros(1))
        self._saved = time.monotonic()

    def run(self, schedule: Iterator[str], planned: int, tokenise: Tokenise, enough: float | None = None) -> WriterState:
        """Write the rows of a schedule of `planned` part names; stops early once `enough` tokens are written."""
        state, ingestion = self.state, self.ingestion
        paths = {part: ingestion.path(part) for part in ingestion.progress.kept}
        files = RowFiles(paths, state.places)
        path = ingestion.folder / "train.jsonl"
        # Cut train.jsonl back to the resume point: an earlier attempt may have written more before it was killed.
        with open(path, "r+b" if state.bytes else "wb") as out:
            out.truncate(state.bytes)
            out.seek(state.bytes)
            # The schedule is deterministic, so skipping what is done resumes it.
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
        for writer in filter(None, (self.tokens, self.offsets, self.prompts)):
            writer.flush()
        out.flush()
        os.fsync(out.fileno())
        # Only after the data is on disk may the manifest count it.
        self.state.places, self.state.bytes = files.offsets, out.tell()
        self.ingestion.progress.packed = dataclasses.asdict(self.state)
        self.ingestion.save()
        self._saved = time.monotonic()
        rows = self.ingestion.progress.rows
        self.ingestion.job.log(rows + self.state.done, rows + planned, {"tokens": self.state.tokens})

    def finish(self, out: Path) -> dict[str, int]:
        """Complete the arrays, move them to `out` and return their counts. Raises UserError if there is less than one block."""
        state, width = self.state, self.block
        if width and state.tokens < width:
            raise UserError(
                f"the training text has {state.tokens:,} tokens, too few for one block of block={width}; add text, or lower block"
            )
        # The headers make the files valid arrays; then they leave the resume folder.
        self.tokens.finish(width)
        for writer in filter(None, (self.offsets, self.prompts)):
            writer.finish()
        for name in ("train.jsonl", *(writer.path.name for writer in (self.tokens, self.offsets, self.prompts) if writer)):
            os.replace(self.ingestion.folder / name, out / name)
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
    """The number of repeats: rows read beyond each part's size."""
    return sum(max(0, count - sizes[name]) for name, count in taken.items())
