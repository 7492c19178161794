"""Segment scores that were computed once: by the metric with its revision, and by source, hypothesis and reference.

A cache and nothing else: it may be deleted at any time, and a score that is lost is computed again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

LOCK_TIMEOUT_SECONDS = 60
KEYS_PER_QUERY = 500
"""Keys in one question: SQLite takes a limited number."""


@dataclass(frozen=True)
class CachedScore:
    """One segment's score, and whether the metric saw less than all of it (B48)."""

    score: float
    cut: bool


def segment_key(metric: str, source: str, hypothesis: str, reference: str | None) -> str:
    """What a score depends on, as one hash. `metric`: its signature, revision included."""
    text = json.dumps([metric, source, hypothesis, reference], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class SegmentCache:
    """A SQLite file that several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as base, base:
            base.execute("create table if not exists scores (key text primary key, score real not null, cut integer not null)")

    def find(self, keys: Iterable[str]) -> dict[str, CachedScore]:
        """What is known of these."""
        wanted = list(keys)
        found: dict[str, CachedScore] = {}
        with closing(self._open()) as base:
            for start in range(0, len(wanted), KEYS_PER_QUERY):
                part = wanted[start : start + KEYS_PER_QUERY]
                question = f"select key, score, cut from scores where key in ({','.join('?' * len(part))})"
                found |= {name: CachedScore(score, bool(cut)) for name, score, cut in base.execute(question, part)}
        return found

    def keep(self, scores: Mapping[str, CachedScore]) -> None:
        """Add these, on disk when this returns. What is there already stays: the first score is everybody's."""
        rows = [(name, found.score, int(found.cut)) for name, found in scores.items()]
        with closing(self._open()) as base, base:
            base.executemany("insert or ignore into scores values (?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_SECONDS)
