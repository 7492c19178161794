"""Writes the preference triples of a data set as train.jsonl and dev.jsonl for the `preferences` stage. Scores nothing."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.ingest import UNKNOWN_TOTAL
from alma_pipeline.ml.data.readers.columns import Triple
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.ml.data.rows import Stream, account

LOG_SECONDS = 10.0
"""Between two lines of progress."""
HOLD_OUT_MODULUS = 8
"""One source in this many may be held out. A hash of its text decides, so all triples of a source are in one split."""


class ReleasedSettings(Protocol):
    """The stage's settings that this module reads."""

    @property
    def held_out(self) -> int:
        """Sources per direction for the dev set."""

    @property
    def released_scorer(self) -> str:
        """The scorer whose scores rank the candidates of a released data set."""


def write_preferences(text: TextReader, directions: Sequence[str], settings: ReleasedSettings, job: Job) -> dict[str, Any]:
    """Write every usable triple of the directions to `job.out`, `held_out` sources of each to dev. Returns counts.

    Raises UserError if a direction has no triples to train on, or too few sources to hold out.
    """
    named: dict[str, dict[str, int]] = {}
    parts: dict[str, dict[str, Any]] = {}
    left_out: dict[str, Counter[str]] = {}
    dropped: Counter[str] = Counter()
    train_file, dev_file = job.out / "train.jsonl", job.out / "dev.jsonl"
    logged, written = time.monotonic(), 0
    with open(train_file, "w", encoding="utf-8") as train, open(dev_file, "w", encoding="utf-8") as dev:
        for direction in directions:
            held_out: set[str] = set()
            count, unused = Counter[str](), Counter[str]()
            stream = text.triples(direction, settings.released_scorer)
            # One pass: the first sources that may be held out go to dev, with all their triples.
            for row in _rows(stream, direction, unused):
                if row["source"] in held_out or (len(held_out) < settings.held_out and _may_be_held_out(row["source"])):
                    held_out.add(row["source"])
                    split, file = "dev", dev
                else:
                    split, file = "train", train
                count[split] += 1
                written += 1
                if time.monotonic() - logged >= LOG_SECONDS:
                    logged = time.monotonic()
                    job.log(written, UNKNOWN_TOTAL, {"data/kept": float(written)})
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if not count["train"] or len(held_out) < settings.held_out:
                raise UserError(
                    f"{direction}: {count.total()} preference triples, {len(held_out)} sources can be held out; expected "
                    f"held_out={settings.held_out}, and more to train on. Lower held_out, or remove the direction (directions=)"
                )
            # Every row that was read is in a split, or has a reason why not.
            left_out[direction] = unused + stream.left_out
            parts[direction] = account(direction, stream.position, count.total(), left_out[direction])
            dropped += unused
            named[direction] = {"train": count["train"], "dev": count["dev"]}
    totals = {f"{split}_examples": sum(count[split] for count in named.values()) for split in ("train", "dev")}
    read, kept = sum(part["read"] for part in parts.values()), sum(totals.values())
    rows = account("all directions", read, kept, sum(left_out.values(), Counter[str]()))
    return {**totals, "dropped": dict(dropped), "rows": rows, "cleaning": parts, "directions": named}


def _rows(stream: Stream[tuple[int, Triple]], direction: str, dropped: Counter[str]) -> Iterator[dict[str, str]]:
    for number, triple in stream:
        if not (triple.source.strip() and triple.chosen.strip() and triple.rejected.strip()):
            dropped["empty"] += 1
        elif triple.chosen.strip() == triple.rejected.strip():
            dropped["equal_texts"] += 1
        else:
            yield {
                "id": f"{direction}:{number}",
                "direction": direction,
                "source": triple.source,
                "chosen": triple.chosen,
                "rejected": triple.rejected,
            }


def _may_be_held_out(source: str) -> bool:
    return int.from_bytes(hashlib.blake2b(source.encode(), digest_size=4).digest()) % HOLD_OUT_MODULUS == 0
