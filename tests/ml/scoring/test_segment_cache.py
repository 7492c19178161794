"""The cache of scores among processes and machines."""

from pathlib import Path

import pytest

from alma_pipeline import heartbeat
from alma_pipeline.ml.scoring.segment_cache import CachedScore, SegmentCache
from alma_pipeline.mounts import Reach
from helpers.another_machine import start
from helpers.processes import later


def test_two_machines_never_have_it_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks may end at the machine too; it would read and write beside the other one."""
    monkeypatch.setattr(heartbeat, "reach", lambda folder: Reach.UNKNOWN)
    cache = SegmentCache(tmp_path / "cache.db")
    (tmp_path / "locks").mkdir()
    other = start("far", tmp_path / "locks", "hold", str(tmp_path / "cache.db.lock"))
    assert other.stdout is not None and other.stdout.readline() == "has\n"
    adding = later(lambda: cache.add({"a": CachedScore(0.5, False)}))
    adding.join(1.0)
    assert adding.is_alive()
    other.communicate("\n")
    adding.join(10)
    assert cache.find(["a"]) == {"a": CachedScore(0.5, False)}
