"""Reads and cleans text into one file of rows per language or direction. Resumes after a kill.

Chooses the held-out rows first, from the start of each part, then drops every other row that contains one of their texts.
Memory does not grow with the text, except 8 bytes per row where duplicates are dropped. Does not mix or tokenise.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from alma_pipeline.errors import UserError
from alma_pipeline.job import RESUME_SCHEMA, Job
from alma_pipeline.ml.data.cleaning import Cleaner
from alma_pipeline.ml.data.prompts import BATCH
from alma_pipeline.ml.data.rows import (
    AnyRow,
    CorpusRow,
    Document,
    Item,
    SentencePair,
    Stream,
    account,
    line_of,
    row_of,
    texts_of,
)

SAVE_SECONDS = 10.0
"""Between two resume points, and between two lines of progress."""
UNKNOWN_TOTAL = 0
"""The total to log while the amount of text is unknown, as for a streamed hub data set."""
HOLD_OUT_MODULUS = 8
"""One row in this many may be held out (our choice). A hash of the English side decides, so all directions agree."""
Counts = dict[str, dict[str, int]]
"""Of one part: `read`, `dropped` and `changed`."""


@dataclass(frozen=True)
class CorpusPart(Generic[AnyRow]):
    """The documents of one language, or the pairs of one direction."""

    name: str
    open: Callable[[int], Stream[AnyRow]]
    """The rows from a position on."""
    cleaner: Callable[[], Cleaner]
    bytes: int = 0
    """Approximate size, for the progress bar."""
    held_out: Callable[[], Stream[AnyRow]] | None = None
    """Rows that the reader itself keeps out of training; None: held-out rows are chosen from the training rows."""


@dataclass
class IngestProgress:
    """How far ingestion has come: with the files of rows, all that a resume needs."""

    rows: int = 0
    """Rows read of all finished parts and the current one."""
    part: str = ""
    """The current part."""
    position: int = 0
    """Rows read of the current part."""
    size: int = 0
    """Valid bytes of the current part's file; what follows is cut off on resume."""
    kept: dict[str, int] = field(default_factory=dict)
    """Finished part to rows kept."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """Part to `dropped`, `changed` and `read`."""
    bytes: int = 0
    """Text read of all parts, for the estimate of the total."""
    packed: dict[str, Any] = field(default_factory=dict)
    """State of the `TokenWriter`; empty before it starts."""


@dataclass(frozen=True)
class HeldOut:
    """The rows held out of training, by part, and every text in them."""

    rows: dict[str, list[Any]]
    texts: frozenset[str]
    dropped: Counter[str]
    """Rows dropped by readers that keep their own held-out rows, by reason."""


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def hold_out(job: Job, parts: Sequence[CorpusPart[Any]], count: int | None) -> HeldOut:
    """Choose the first `count` rows of each part that may be held out.

    If a reader keeps its own held-out rows, all of those may be; otherwise the rows whose English side hashes to the held-out
    eighth. `count=None` takes all of the former, or all such rows among the first 100,000. Raises UserError if a part has fewer.
    """
    rows, dropped = dict[str, list[Any]](), Counter[str]()
    logged, seen = time.monotonic(), 0
    for part in parts:
        cleaner, found = part.cleaner(), dict[tuple[str, ...], Any]()
        stream, read = part.held_out() if part.held_out else part.open(0), 0
        for batch in batched(stream, BATCH):
            read, seen = read + len(batch), seen + len(batch)
            if time.monotonic() - logged >= SAVE_SECONDS:
                logged = time.monotonic()
                job.log(seen, UNKNOWN_TOTAL, {"data/looked_through": float(seen)})
            # Keyed by text: a sentence is held out once.
            for row in _clean(cleaner, batch):
                if (part.held_out or _may_be_held_out(row)) and (count is None or len(found) < count):
                    found.setdefault(texts_of(row), row)
            if len(found) == count or (count is None and not part.held_out and read >= 100_000):
                break
        if count is not None and len(found) < count:
            raise UserError(_too_few(part, len(found), count, read, cleaner.dropped + stream.left_out))
        rows[part.name] = list(found.values())
        dropped += stream.dropped if part.held_out else Counter()
    # Over all parts: a text held out in one direction must not be trained on in another.
    texts = frozenset(text for found in rows.values() for row in found for text in texts_of(row))
    return HeldOut(rows, texts, dropped)


def _too_few(part: CorpusPart[Any], found: int, count: int, read: int, dropped: Counter[str]) -> str:
    which = "from its own held-out text" if part.held_out else f"one in {HOLD_OUT_MODULUS}"
    return (
        f"held_out={count} for every language or direction, but only {found} of {part.name}'s {read:,} rows can be held out "
        f"({which}, after cleaning: {_drop_counts(dropped)}); lower held_out (budget.text.dev), or add text"
    )


def _drop_counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in dropped.items() if count) or "nothing dropped"


def _clean(cleaner: Cleaner, batch: list[Any]) -> list[Any]:
    return cleaner.documents(batch) if isinstance(batch[0], Document) else cleaner.pairs(batch)


def _may_be_held_out(row: CorpusRow) -> bool:
    """Whether a row may be held out. Decided by its English side, so that both directions and all languages agree."""
    text = row.text if isinstance(row, Document) else row.target if row.direction.endswith("-en") else row.source
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) % HOLD_OUT_MODULUS == 0


class Ingestion:
    """Writes the cleaned rows of all parts to `folder`, as JSON lines, one file per part."""

    def __init__(self, job: Job, folder: Path, limit: int | None) -> None:
        """Resumes what an earlier attempt left in `folder`. `limit`: rows to keep of each part; None keeps all."""
        self.job, self.folder, self.limit = job, folder, limit
        self.progress = _load(folder / "manifest.json")
        self._saved = time.monotonic()

    def path(self, part: str) -> Path:
        """The file of a part's cleaned rows."""
        return self.folder / f"rows-{part}.jsonl"

    def run(self, parts: Sequence[CorpusPart[Any]], held_out: HeldOut, max_contamination: float) -> IngestProgress:
        """Read every unfinished part. Raises UserError if none of its rows is kept, or too many are in a test set."""
        total = sum(part.bytes for part in parts)
        for part in parts:
            if part.name not in self.progress.kept:
                self._part(part, held_out, total)
            # Finished parts too: one that stopped an earlier attempt stops this one.
            _check(part.name, self.progress, max_contamination)
        return self.progress

    def _part(self, part: CorpusPart[Any], held_out: HeldOut, total: int) -> None:
        progress, cleaner = self.progress, part.cleaner()
        cleaner.held_out = held_out.texts
        # Restore the state of a part that an earlier attempt began; any other part starts from its first row.
        if progress.part != part.name:
            progress.part, progress.position, progress.size = part.name, 0, 0
        kept = self._resume(part, cleaner)
        stream = part.open(progress.position)
        before = progress.rows - progress.position
        with open(self.path(part.name), "r+b" if progress.size else "wb") as file:
            file.truncate(progress.size)
            file.seek(progress.size)
            for batch in batched(stream, BATCH):
                rows = _clean(cleaner, batch)
                if self.limit is not None:
                    cleaner.dropped["beyond_limit"] += max(0, len(rows) - (self.limit - kept))
                    rows = rows[: self.limit - kept]
                kept += len(rows)
                file.writelines(line_of(row) for row in rows)
                progress.bytes += sum(len(text) for row in batch for text in texts_of(row))
                progress.rows, progress.position = before + stream.position, stream.position
                self._save_and_log(part, _counts(cleaner, stream), file, kept, total)
                if kept == self.limit:
                    break
        # Being listed in `kept` marks a part as finished.
        progress.rows, progress.kept[part.name] = before + stream.position, kept
        counts = _counts(cleaner, stream)
        counts["dropped"] = dict(stream.dropped + Counter(counts["dropped"]))
        counts["read"]["rows"] += stream.dropped.total()
        account(part.name, counts["read"]["rows"], kept, counts["dropped"])
        progress.counts[part.name] = counts
        self.save()

    def _resume(self, part: CorpusPart[Any], cleaner: Cleaner) -> int:
        """Restore the cleaner's state, duplicates included. Returns the rows that an earlier attempt kept of the part."""
        progress = self.progress
        _restore(cleaner, progress.counts.get(part.name, {}))
        kept = 0
        if not progress.size:
            return kept
        with open(self.path(part.name), "rb+") as file:
            file.truncate(progress.size)
            for batch in batched(file, BATCH):
                kept += len(batch)
                cleaner.remember([row_of(json.loads(line)) for line in batch])
        return kept

    def _save_and_log(self, part: CorpusPart[Any], counts: Counts, file: Any, kept: int, total: int) -> None:
        progress = self.progress
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return
        # The manifest may count only what is on disk.
        file.flush()
        os.fsync(file.fileno())
        progress.size = file.tell()
        progress.counts[part.name] = counts
        self.save()
        # Scale the rows read by the share of the text they took; 0 where the size of the text is unknown.
        expected = round(progress.rows * max(1.0, total / max(1, progress.bytes))) if total else UNKNOWN_TOTAL
        self.job.log(progress.rows, expected, {"kept": sum(progress.kept.values()) + kept})

    def save(self) -> None:
        """Save the current state as the resume point, atomically. The plan shows `step`."""
        self._saved = time.monotonic()
        self.job.given.check_unchanged()  # a resume point holds rows of the files that the settings name, and of no others
        text = json.dumps({"schema": RESUME_SCHEMA, "step": self.progress.rows, **dataclasses.asdict(self.progress)})
        draft = self.folder / "manifest.json.new"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.folder / "manifest.json")


def join_pair(row: SentencePair, seed: str) -> Document:
    """Join a pair into one line with a space, either side first with equal probability (X-ALMA's pseudo-monolingual text)."""
    source, target = row.direction.split("-")
    swap = hashlib.blake2b(f"{seed}/{row.id}".encode(), digest_size=1).digest()[0] % 2
    first, second = ((target, row.target), (source, row.source)) if swap else ((source, row.source), (target, row.target))
    order = f"{first[0]}-{second[0]}"
    return Document(f"{order}:{row.id}", order, f"{first[1]} {second[1]}")


def _counts(cleaner: Cleaner, stream: Stream[Any]) -> Counts:
    """The counts of a part so far: `read` has all rows, and those that reached the cleaner; `dropped` has `rejected` too."""
    dropped, changed = cleaner.dropped + stream.left_out, cleaner.changed + stream.changed
    return {"dropped": dict(dropped), "changed": dict(changed), "read": {"rows": stream.position, "cleaned": cleaner.read}}


def _restore(cleaner: Cleaner, counts: Counts) -> None:
    cleaner.dropped, cleaner.changed = Counter(counts.get("dropped")), Counter(counts.get("changed"))
    cleaner.read = counts.get("read", {}).get("cleaned", 0)


def _check(part: str, progress: IngestProgress, most: float) -> None:
    counts = progress.counts[part]
    read, dropped = counts["read"]["cleaned"], counts["dropped"]
    tested = dropped.get("test", 0)
    if tested > most * read:
        raise UserError(
            f"{part}: {tested:,} of {read:,} rows ({tested / read:.1%}) are in the run's test set, more than "
            f"cleaning.max_contamination={most:.0%} allows: the text and the test set share a source. Use another test set, or "
            "raise the limit to train without these rows"
        )
    if not progress.kept[part]:
        raise UserError(
            f"{part}: cleaning kept none of {read:,} rows (dropped: {_drop_counts(Counter(dropped))}); "
            "loosen data.cleaning, or use other text"
        )


def _load(path: Path) -> IngestProgress:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return IngestProgress()
    state = json.loads(path.read_text(encoding="utf-8"))
    # Those of an earlier version did not count all rows: such a preparation begins again.
    if state.get("schema") != RESUME_SCHEMA:
        return IngestProgress()
    return IngestProgress(**{item.name: state[item.name] for item in dataclasses.fields(IngestProgress)})
