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

WAIT_SECONDS = 60
AT_ONCE = 500
"""Keys in one question: SQLite takes a limited number."""


@dataclass(frozen=True)
class Found:
    """One segment's score, and whether the metric saw less than all of it (B48)."""

    score: float
    cut: bool


def key(metric: str, source: str, hypothesis: str, reference: str | None) -> str:
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

    def find(self, keys: Iterable[str]) -> dict[str, Found]:
        """What is known of these."""
        wanted = list(keys)
        found: dict[str, Found] = {}
        with closing(self._open()) as base:
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                question = f"select key, score, cut from scores where key in ({','.join('?' * len(part))})"
                found |= {name: Found(score, bool(cut)) for name, score, cut in base.execute(question, part)}
        return found

    def keep(self, scores: Mapping[str, Found]) -> None:
        """Add these, on disk when this returns. What is there already stays: the first score is everybody's."""
        rows = [(name, found.score, int(found.cut)) for name, found in scores.items()]
        with closing(self._open()) as base, base:
            base.executemany("insert or ignore into scores values (?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=WAIT_SECONDS)
