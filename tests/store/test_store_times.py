"""When artifacts were made, and which is the newest, whatever the time zone."""

import json
import time
from datetime import timedelta

import pytest

from alma_pipeline import instants
from alma_pipeline.errors import UserError
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.record import read_record
from alma_pipeline.store.store import Store
from helpers.artifacts import put

KEY, OTHER = "a" * 64, "b" * 64
RECORD = {"name": "mono", "key": KEY, "kind": "fake", "payload": {}, "result": {}, "created": "2026-11-29", "seconds": 0}


def test_newest_first(store: Store) -> None:
    for day, key in ((3, "3"), (1, "1"), (2, "2")):
        put(store, "mono", key * 64, {"created": f"2026-11-0{day}T00:00:00+0000"})
    assert [record.key[0] for record in store.named("mono")] == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("older", "newer", "seconds"),
    [
        ("2026-11-29T16:35:00+0900", "2026-11-28T23:35:43-0800", 43),  # Tokyo, Los Angeles
        ("2026-10-25T02:50:00+0200", "2026-10-25T02:10:00+0100", 20 * 60),  # Berlin, the hour that comes twice
        ("2026-10-25T02:50:00", "2026-10-25T02:10:00+0100", 20 * 60),  # as the first, written without its offset in Berlin
        ("2026-11-29T16:35:00+0900", "2026-11-29T07:35:00.120+00:00", 0.12),
    ],
)
def test_the_newest_is_the_last_instant_whatever_the_clock_on_the_wall(
    store: Store, monkeypatch: pytest.MonkeyPatch, older: str, newer: str, seconds: float
) -> None:
    """Local times sorted as text would take the older one in each case."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        put(store, "mono", "1" * 64, {"created": newer})
        put(store, "mono", "2" * 64, {"created": older})
        found = [store.records(), store.named("mono"), [find_artifact(store, "mono")]]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [records[0].key[0] for records in found] == ["1", "1", "1"]
    assert (found[0][0].created - found[0][1].created).total_seconds() == seconds


def test_a_record_holds_its_instant_in_utc(store: Store) -> None:
    record = put(store, "mono", KEY, {"created": instants.now()})
    text = json.loads((record.path / "record.json").read_text())["created"]
    assert text.endswith("+00:00") and record.created.utcoffset() == timedelta(0)
    assert abs(record.created.timestamp() - time.time()) < 60


@pytest.mark.parametrize("created", [{"created": ""}, {"created": "yesterday"}, {"created": 5}, {}])
def test_a_record_without_a_time_is_damaged(store: Store, created: dict[str, object]) -> None:
    """Else it would count as the newest or the oldest, and nobody would know."""
    file = store.root / "artifacts" / f"mono-{KEY[:12]}" / "record.json"
    file.parent.mkdir(parents=True)
    raw = {name: value for name, value in RECORD.items() if name != "created"}
    file.write_text(json.dumps({"schema": 1, "files": {}, "digests": {}} | raw | created))
    with pytest.raises(UserError, match=r"record.json does not match schema 1 .*(created is missing|isoformat)"):
        read_record(file.parent)
