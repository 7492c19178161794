"""A cache of segment scores, by metric with revision, source, hypothesis and reference.

It can be deleted at any time; missing scores are computed again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.lease import held

LOCK_TIMEOUT_SECONDS = 60
KEYS_PER_QUERY = 500
"""SQLite limits the number of parameters of a query."""


@dataclass(frozen=True)
class CachedScore:
    """One segment's score, and whether the model's input was truncated (B48)."""

    score: float
    cut: bool


def segment_key(metric: str, source: str, hypothesis: str, reference: str | None) -> str:
    """A hash of everything that a score depends on. `metric`: its signature, which contains the revision."""
    text = json.dumps([metric, source, hypothesis, reference], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class SegmentCache:
    """A SQLite file that several processes can use, on several machines too.

    SQLite's own locks may reach one machine only, and its file would be damaged. So it is opened under a lease each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as base:
            base.execute("create table if not exists scores (key text primary key, score real not null, cut integer not null)")

    def find(self, keys: Iterable[str]) -> dict[str, CachedScore]:
        """The cached scores among these keys."""
        wanted = list(keys)
        found: dict[str, CachedScore] = {}
        with self._opened() as base:
            for start in range(0, len(wanted), KEYS_PER_QUERY):
                part = wanted[start : start + KEYS_PER_QUERY]
                query = f"select key, score, cut from scores where key in ({','.join('?' * len(part))})"
                found |= {name: CachedScore(score, bool(cut)) for name, score, cut in base.execute(query, part)}
        return found

    def add(self, scores: Mapping[str, CachedScore]) -> None:
        """Add scores; they are on disk on return. Existing entries stay, so that all processes use the first score."""
        rows = [(name, found.score, int(found.cut)) for name, found in scores.items()]
        with self._opened() as base:
            base.executemany("insert or ignore into scores values (?, ?, ?)", rows)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database in a transaction of its own."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        with held(lock), closing(sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_SECONDS)) as base, base:
            yield base
