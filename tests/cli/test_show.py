"""`show` and `plan --diff`: finding an artifact by what one remembers of it."""

import time
from collections.abc import Callable

import pytest

from alma_pipeline.cli import plan, show
from alma_pipeline.errors import UserError
from alma_pipeline.store import lookup
from alma_pipeline.store.store import Store
from helpers.artifacts import put

BASE, OLD, NEW, LONE = "aaaa11" + "0" * 58, "aaaa22" + "0" * 58, "bbbb33" + "0" * 58, "cccc44" + "0" * 58


def payload(inputs: dict[str, str], version: int = 1, **config: object) -> dict[str, object]:
    return {"payload": {"kind": "fake", "version": version, "config": config, "inputs": inputs}}


@pytest.fixture
def filled(store: Store) -> Store:
    put(store, "base", BASE, payload({}) | {"created": "2026-11-01T00:00:00+0000"})
    put(store, "mono", OLD, payload({"init": BASE}, beta=0.1, steps=5) | {"created": "2026-11-02T00:00:00+0000"})
    new = payload({"init": OLD}, beta=0.2, steps=5) | {"created": "2026-11-03T00:00:00+0000", "result": {"steps": 5}}
    put(store, "mono", NEW, new)
    put(store, "cpo", LONE, payload({"init": "f" * 64}, version=2, beta=0.1, steps=5) | {"created": "2026-11-04T00:00:00+0000"})
    return Store(store.root)


@pytest.mark.parametrize(
    ("text", "key"),
    [("mono", NEW), (f"mono-{OLD[:12]}", OLD), (OLD, OLD), ("aaaa2", OLD), ("bbbb", NEW), ("base", BASE)],
)
def test_find(filled: Store, text: str, key: str) -> None:
    """A name means its newest artifact."""
    assert lookup.find_artifact(filled, text).key == key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aaaa", "'aaaa' is a prefix of 2 keys: "),
        ("mno", "no artifact 'mno' in .*; did you mean 'mono'"),
        ("bbb", "no artifact 'bbb' in "),
    ],
)
def test_what_cannot_be_found(filled: Store, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        lookup.find_artifact(filled, text)


def unreadable(store: Store, key: str) -> None:
    """Put a folder in place of a record: as little of a file as one without permission, also for root."""
    (file,) = store.root.glob(f"artifacts/*-{key[:12]}/record.json")
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [unreadable, lambda store, key: next(store.root.glob(f"*/*{key[:12]}/record.json")).unlink()])
def test_a_record_that_cannot_be_read_is_named_where_it_matters(
    filled: Store, capsys: pytest.CaptureFixture[str], harm: Callable[[Store, str], None]
) -> None:
    """The newest of a name may be the one that cannot be read; other artifacts are shown without it."""
    harm(filled, OLD)
    for text in ("mono", f"mono-{OLD[:12]}", OLD, "aaaa2"):
        with pytest.raises(UserError, match=rf"mono-{OLD[:12]}(/record.json cannot be read .*belongs to \w+| has no record)"):
            lookup.find_artifact(Store(filled.root), text)
    assert lookup.find_artifact(Store(filled.root), "cpo").key == LONE
    assert show.show(filled.root, NEW) == 0
    assert f"init: {OLD[:12]} (" in capsys.readouterr().out


def test_an_empty_store(store: Store) -> None:
    with pytest.raises(UserError, match="the store is empty"):
        lookup.find_artifact(store, "mono")


def test_lineage(filled: Store) -> None:
    assert lookup.lineage(filled, lookup.find_artifact(filled, "mono"), 1) == [
        f"  init: mono-{OLD[:12]}",
        f"    init: base-{BASE[:12]}",
    ]
    assert lookup.lineage(filled, lookup.find_artifact(filled, "cpo"), 0) == ["init: ffffffffffff (missing)"]


def test_show_in_local_time(filled: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert show.show(filled.root, "mono") == 0
    finally:
        monkeypatch.undo()
        time.tzset()
    text = capsys.readouterr().out
    assert "made 2026-11-03 09:00:00 +0900 in" in text
    for part in (NEW, str(filled.root), '"beta": 0.2', '"steps": 5', f"mono-{OLD[:12]}", "1 files"):
        assert part in text.replace("\n", "") or part in text, part


def test_diff(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.diff(filled.root, OLD, NEW) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["beta", "0.1", "0.2"] in rows and ["input", "init", BASE[:12], OLD[:12]] in rows
    assert not any("steps" in row for row in rows)


def test_diff_tells_a_version(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    plan.diff(filled.root, OLD, LONE)
    assert ["version", "1", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_no_difference(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    plan.diff(filled.root, OLD, OLD)
    assert "no difference" in capsys.readouterr().out
