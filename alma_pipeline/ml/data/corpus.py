"""Builds a corpus for the `corpus` stage: opens its readers, tokenises rows, writes dev and test sets, and sums up the counts."""

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data import token_arrays
from alma_pipeline.ml.data.cldr import CldrReader, Phrasebook, open_cldr
from alma_pipeline.ml.data.cleaning import Cleaner, match_keys
from alma_pipeline.ml.data.ingest import CorpusPart, HeldOut, Ingestion, batched, join_pair
from alma_pipeline.ml.data.mixing import arrange_rows, round_robin
from alma_pipeline.ml.data.prompts import BATCH, Example, Prompter
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.ml.data.rows import AnyRow, CorpusRow, Document, SentencePair, Stream, account, part_of
from alma_pipeline.ml.data.tokenise import Tokenise
from alma_pipeline.schema import Cleaning, Language, Source

FOLDER = "step-0"
"""Subfolder of the resume folder, where the plan looks for resume points; its manifest has the number of rows read."""
REJECTED = "rejected.jsonl"
NOT_LACKING = ("beyond_limit", "other_direction")
"""Rows that were not asked for: a test set does not count them as dropped."""


class CorpusBuilder:
    """The resume folder, the readers and the cleaners of one corpus."""

    def __init__(self, job: Job) -> None:
        """Reads the node's settings languages, cleaning, form, seed, train and held_out."""
        self.job, self.config = job, job.config
        self.languages: dict[str, Language] = job.config.languages
        self.cleaning: Cleaning = job.config.cleaning
        self.folder = job.resume / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rejects: list[Rejects] = []
        self._test: frozenset[str] | None = None

    def reader(self, source: Source) -> TextReader | CldrReader:
        """The reader of a source. All readers share one count of unreadable rows."""
        if source.reader == "cldr":
            return self._generated(source)
        if not self.rejects:
            self.rejects.append(Rejects(source.on_error, self.folder / REJECTED))
        setting = self.config.source_setting(source)
        return TextReader(source, self.languages, self.job.files, self.rejects[0], self.job.codes, setting)

    def _generated(self, source: Source) -> CldrReader:
        if self.config.form == "test":
            return open_cldr(source, "test", self._phrases, self.config.held_out)
        if self.cleaning.steps:  # they may drop any row, so the number to generate is not known in advance
            return open_cldr(source, "train", self._phrases, None)
        return open_cldr(source, "train", self._phrases, self.config.train, self.config.held_out)

    @functools.cached_property
    def _phrases(self) -> Phrasebook:
        return Phrasebook(self.languages, self.config.seed)

    def cleaner(self) -> Cleaner:
        """A new cleaner with the node's settings."""
        return Cleaner(self.cleaning, self.languages, self.test)

    @property
    def test(self) -> frozenset[str]:
        """Match keys of the run's test sentences; empty unless the cleaning includes `test`."""
        if "test" not in self.cleaning.steps:
            return frozenset()
        if self._test is None:
            with open(Path(self.job.inputs["test"].path) / "test.jsonl", encoding="utf-8") as file:
                self._test = match_keys(map(json.loads, file))
        return self._test

    def pairs(self, source: Source, directions: Sequence[str]) -> list[CorpusPart[SentencePair]]:
        """One part per direction; reads nothing yet."""
        text = self.reader(source)
        held_out = text.held_out.pairs if text.held_out else None
        return [self._part(name, text.pairs, held_out, text.bytes(name)) for name in directions]

    def documents(self, source: Source, codes: Sequence[str]) -> list[CorpusPart[Document]]:
        """One part per language; reads nothing yet. Raises UserError for documents that would be of every language."""
        text = self.reader(source)
        if isinstance(text, TextReader):
            text.check_languages(codes)
        held_out = text.held_out.documents if text.held_out else None
        return [self._part(code, text.documents, held_out, text.bytes(code)) for code in codes]

    def _part(
        self,
        name: str,
        read: Callable[[str, int], Stream[AnyRow]],
        held_out: Callable[[str, int], Stream[AnyRow]] | None,
        size: int,
    ) -> CorpusPart[AnyRow]:
        own = functools.partial(held_out, name, 0) if held_out else None
        return CorpusPart(name, functools.partial(read, name), self.cleaner, size, own)

    def join(self, source: Source | None) -> Callable[[SentencePair], Document]:
        """The function that joins a pair into one line. `source`: where the pairs come from; None for any."""
        text = self.reader(source) if source else None
        return text.join if isinstance(text, CldrReader) else functools.partial(join_pair, seed=str(self.config.seed))

    def rejected_summary(self) -> str:
        """The rows that could not be read, as the end of a message."""
        return self.rejects[0].summary if self.rejects else ""

    def store_rejected(self) -> int:
        """Move the rejected rows into the artifact. Returns their number."""
        path = self.folder / REJECTED
        if path.exists():
            os.replace(path, self.job.out / REJECTED)
        return sum(rejects.count for rejects in self.rejects)

    def counts(self, ingestion: Ingestion, held_out: HeldOut, too_long: int) -> dict[str, Any]:
        """What became of the rows, in total and by part. Logs the totals to tracking. Raises PipelineError if one is missing."""
        by_part, progress = ingestion.progress.counts, ingestion.progress
        parts = {
            name: account(name, counts["read"]["rows"], progress.kept[name], counts["dropped"]) | {"changed": counts["changed"]}
            for name, counts in by_part.items()
        }
        found = sum((Counter(counts["dropped"]) for counts in by_part.values()), Counter[str]())
        rows = account("all parts", sum(part["read"] for part in parts.values()), sum(progress.kept.values()), found)
        # Readers drop rows of held-out text too, and some rows are too long for training.
        dropped = Counter(rows["dropped"]) + held_out.dropped + Counter(too_long=too_long)
        changed = sum((Counter(counts["changed"]) for counts in by_part.values()), Counter[str]())
        rejected = self.store_rejected()
        totals = {f"data/dropped/{name}": float(count) for name, count in dropped.items()}
        sums = {"data/read": float(progress.rows), "data/kept": float(rows["kept"]), "data/rejected": float(rejected)}
        # The last line of progress: all rows read and all positions of the schedule.
        steps = progress.rows + progress.packed.get("done", rows["kept"])
        self.job.log(steps, steps, totals | sums)
        return {
            "dropped": dict(dropped),
            **_changes(changed),
            "rejected": rejected,
            "read": progress.rows,
            "rows": rows,
            "cleaning": parts,
        }

    def commits(self, sources: Sequence[Source]) -> dict[str, Any]:
        """The commit of each hub data set; the plan has already resolved branches to commits."""
        found = {source.repo or "": source.revision or "" for source in sources if source.reader == "hub"}
        return {"commits": found} if found else {}


def pair_tokeniser(prompter: Prompter, max_source: int, max_target: int) -> Tokenise:
    """Tokenise pairs as prompt and answer. A pair that is too long on either side is dropped, never truncated (B48, B51)."""

    def tokenise(rows: Sequence[CorpusRow]) -> list[tuple[CorpusRow, Example | None]]:
        texts = [(row.direction, row.source, row.target) for row in rows if isinstance(row, SentencePair)]
        found = prompter.examples(texts)
        fits = [example.prompt <= max_source and len(example.ids) - example.prompt <= max_target for example in found]
        return [(row, example if fit else None) for row, example, fit in zip(rows, found, fits, strict=True)]

    return tokenise


def document_tokeniser(tokenizer: PreTrainedTokenizerBase, join: Callable[[SentencePair], Document]) -> Tokenise:
    """Tokenise documents, and pairs after `join` has made one line of each."""

    def tokenise(rows: Sequence[CorpusRow]) -> list[tuple[CorpusRow, Example | None]]:
        lines = [row if isinstance(row, Document) else join(row) for row in rows]
        found = token_arrays.document_examples(tokenizer, [line.text for line in lines])
        return list(zip(lines, found, strict=True))

    return tokenise


@dataclass
class DevCounts:
    """Numbers of the dev set; lengths are in tokens."""

    examples: int = 0
    longest: int = 0
    merged: int = 0
    too_long: int = 0
    counted: dict[str, int] = field(default_factory=dict)


def write_dev_set(
    builder: CorpusBuilder, order: Callable[[Mapping[str, int]], Iterator[str]], held_out: HeldOut, tokenise: Tokenise
) -> DevCounts:
    """Write the held-out rows in `order`, and their arrays. Raises UserError if all are too long."""
    rows = arrange_rows(held_out.rows, order)
    # As in training, rows that are too long are dropped.
    found = [item for batch in batched(rows, BATCH) for item in tokenise(batch)]
    kept = [(row, example) for row, example in found if example is not None]
    if rows and not kept:
        raise UserError(f"all {len(rows)} held-out rows are too long; raise max_source or max_target")
    token_arrays.write_rows(builder.job.out / "dev.jsonl", [row for row, _ in kept])
    examples = [example for _, example in kept]
    written = token_arrays.write_examples(builder.job.out, "dev", examples)
    # Bits per byte of monolingual text needs the size of its documents.
    if any(isinstance(row, Document) for row, _ in kept):
        token_arrays.write_bytes(builder.job.out, "dev", [row.text for row, _ in kept if isinstance(row, Document)])
    named = Counter(part_of(row) for row, _ in kept)
    merged = sum(example.merged for example in examples)
    return DevCounts(written["examples"], written["longest"], merged, len(found) - len(kept), dict(named))


def write_test_set(builder: CorpusBuilder, source: Source, directions: Sequence[str], count: int | None) -> dict[str, Any]:
    """Write the first `count` pairs of each direction in `round_robin` order; None: all. Raises UserError if there are fewer."""
    text, columns = builder.reader(source), dict[str, list[SentencePair]]()
    dropped, changed, parts = Counter[str](), Counter[str](), dict[str, dict[str, Any]]()
    for direction in directions:
        # No cleaning steps: a score counts the whole test set. Only empty rows are dropped, and line breaks become spaces.
        stream, cleaner = text.pairs(direction), Cleaner(Cleaning(), builder.languages, frozenset())
        whole = [row for batch in batched(stream, BATCH) for row in cleaner.pairs(batch)]
        rows = columns[direction] = whole[:count]
        if not rows or (count is not None and len(rows) < count):
            raise UserError(
                f"held_out={count or 'null'} for every direction, but the text has only {len(rows)} pairs for {direction}; lower "
                f"held_out (budget.text.test), or add text{builder.rejected_summary()}"
            )
        # Every row that was read is in the set, or has a reason why not.
        found = cleaner.dropped + stream.dropped + stream.left_out + Counter(beyond_limit=len(whole) - len(rows))
        parts[direction] = account(direction, stream.position + stream.dropped.total(), len(rows), found)
        dropped += found
        changed += cleaner.changed + stream.changed
    rows = arrange_rows(columns, round_robin)
    token_arrays.write_rows(builder.job.out / "test.jsonl", rows)
    total = account("all directions", sum(part["read"] for part in parts.values()), len(rows), dropped)
    return {
        "test_examples": len(rows),
        "dropped": {name: number for name, number in total["dropped"].items() if name not in NOT_LACKING},
        **_changes(changed),
        "rejected": builder.store_rejected(),
        "rows": total,
        "cleaning": parts,
        "directions": {name: {"test": n} for name, n in Counter(row.direction for row in rows).items()},
    }


def _changes(changed: Counter[str]) -> dict[str, Any]:
    """Rows that were changed, and what was odd in them."""
    odd = {name: number for name, number in changed.items() if number and name not in ("newlines", "nfc")}
    return {"newlines": changed["newlines"], "normalised": changed["nfc"], "noticed": odd}
