"""Artifacts appear whole or not at all, are found by their key alone, and are never lost."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from alma_pipeline.errors import UserError
from alma_pipeline.files import digest, sync, sync_tree, write_json
from alma_pipeline.store import store as module
from alma_pipeline.store.record import is_complete, read_record, write_record
from alma_pipeline.store.store import Store
from helpers.artifacts import put

KEY, OTHER = "a" * 64, "b" * 64
RECORD = {"name": "mono", "key": KEY, "kind": "fake", "payload": {}, "result": {}, "created": "2026-11-29", "seconds": 0}


def test_an_artifact_comes_back_as_it_was_put(store: Store) -> None:
    files = {"text.txt": "hello", "deep/er.txt": "ß"}
    made = put(store, "mono", KEY, {"result": {"counts": {"x": 1}}, "payload": {"config": {"a": None}}}, files)
    found = Store(store.root).find(KEY)
    assert found == made
    assert found.path == store.root / "artifacts" / f"mono-{KEY[:12]}"
    assert found.files == {"text.txt": 5, "deep/er.txt": 2}
    hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert found.digests["text.txt"] == digest(found.path / "text.txt") == hello
    assert (found.result, found.payload) == ({"counts": {"x": 1}}, {"config": {"a": None}})
    assert list((store.root / "work").iterdir()) == [], "nothing is left of the work"
    assert [record.key for record in store.records()] == [record.key for record in store.named("mono")] == [KEY]
    assert store.named("mon") == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_an_artifact(store: Store, umask: int, mode: int) -> None:
    """safetensors writes files for their owner alone."""
    before = os.umask(umask)
    try:
        work = store.begin("mono", KEY)
        (work.path / "out").mkdir()
        save_file({}, work.path / "out" / "model.safetensors")
        (work.path / "out" / "run.sh").touch(mode=0o755)
        record = store.commit(work, RECORD)
        work.close()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in record.path.iterdir()}
    assert modes == {"model.safetensors": mode, "record.json": mode, "run.sh": 0o755 & ~umask | mode}
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.root.glob("*/*.owner")} == {mode}


def test_logs_come_along_with_an_artifact(store: Store) -> None:
    work = store.begin("mono", KEY)
    (work.path / "out").mkdir()
    for name in ("metrics.jsonl", "log.txt", "job.json", "result.json", "error.json"):
        (work.path / name).write_text(name)
    record = store.commit(work, RECORD)
    assert set(record.files) == {"metrics.jsonl", "log.txt", "job.json"}
    work.close()


@pytest.mark.parametrize("at", ["digest", "sync_tree", "sync", "write_record", "rename"])
def test_a_commit_that_is_cut_off_leaves_no_artifact_and_can_be_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """B8: a half-written artifact is never found."""

    def cut_off(*words: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    work = store.begin("mono", KEY)
    (work.path / "out").mkdir()
    (work.path / "out" / "text.txt").write_text("hello")
    with monkeypatch.context() as patched:
        patched.setattr(os if at == "rename" else module, at, cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.commit(work, RECORD)
    assert Store(store.root).find(KEY) is None and Store(store.root).records() == []
    (work.path / "out" / "record.json.tmp-1").write_text("half a rec")
    assert store.commit(work, RECORD).files == {"text.txt": 5}
    work.close()


def test_the_record_is_written_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("digest", "sync_tree", "sync", "write_json", "write_record"):
        monkeypatch.setattr(module, name, _noting(order, name, getattr(module, name)))
    put(store, "mono", KEY)
    expected = ["write_json", "digest", "sync_tree", "write_record", "sync", "sync"]
    assert order == expected, "owner; files on disk, record, names on disk"


def test_a_folder_without_a_record_is_neither_found_nor_taken_for_absent(store: Store) -> None:
    """A commit never leaves one: the record was lost."""
    folder = store.root / "artifacts" / f"mono-{KEY[:12]}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("x")
    (store.root / "artifacts" / "notes.txt").write_text("x")
    assert store.records() == [] and store.named("mono") == []
    with pytest.raises(UserError, match=r"has no record\.json; move"):
        store.find(KEY)
    assert store.find("c" * 64) is None


@pytest.mark.parametrize("harm", ["missing", "short", "folder"])
def test_a_missing_or_short_file_is_not_reused(store: Store, harm: str) -> None:
    """B65: a hit needs its files on disk, not only the record of them."""
    record = put(store, "mono", KEY, files={"model.bin": "0123", "deep/x.bin": "0"})
    assert is_complete(record)
    if harm == "short":
        (record.path / "model.bin").write_text("012")
    elif harm == "missing":
        (record.path / "model.bin").unlink()
    else:
        shutil.rmtree(record.path / "deep")
        (record.path / "deep").write_text("a file where a folder was")
    assert not is_complete(record)
    assert store.find(KEY) is None
    assert store.named("mono"), "its settings are still known, for the reason"


def test_a_key_that_begins_alike_is_another_key(store: Store) -> None:
    alike = KEY[:12] + "f" * 52
    put(store, "mono", KEY, files={"x": "ours"})
    assert store.find(alike) is None
    put(store, "parallel", alike, files={"x": "theirs"})
    for key, text in ((KEY, "ours"), (alike, "theirs")):
        found = Store(store.root).find(key)
        assert found is not None and (found.path / "x").read_text() == text


def test_made_again_the_old_one_is_set_aside(store: Store) -> None:
    for text in ("first", "second", "third"):
        put(store, "mono", KEY, files={"x": text})
    found = store.find(KEY)
    assert found is not None and (found.path / "x").read_text() == "third"
    replaced = sorted((folder / "x").read_text() for folder in (store.root / "replaced").iterdir())
    assert replaced == ["first", "second"], "nothing is ever overwritten"


def test_a_key_has_one_artifact_under_whatever_name(store: Store) -> None:
    put(store, "parallel_corpus", KEY, files={"x": "old"})
    put(store, "g1.group_parallel_corpus", KEY, files={"x": "new"})
    found = Store(store.root).find(KEY)
    assert found is not None and (found.path / "x").read_text() == "new"
    assert len(store.records()) == 1 and len(list((store.root / "replaced").iterdir())) == 1


def test_keys_do_not_depend_on_the_place(store: Store, tmp_path: Path) -> None:
    """B62: never paths; a store can be moved."""
    put(store, "mono", KEY)
    moved = store.root.rename(tmp_path / "moved")
    assert Store(moved).find(KEY) is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 2}', "schema 2, expected 1"),
        ("{}", "schema None, expected 1"),
        ("[]", "schema None, expected 1"),
        ('{"schema": 1, "na', "is damaged"),
        ("\x00\x00", "is damaged"),
        ('{"schema": 1, "name": "mono"}', "does not match schema 1 .*missing"),
    ],
)
def test_a_record_this_version_did_not_write_is_refused(store: Store, text: str, said: str) -> None:
    record = put(store, "mono", KEY)
    (record.path / "record.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        Store(store.root).find(KEY)
    assert str(record.path) in str(caught.value)


def test_a_record_with_a_field_unknown_here_is_refused(store: Store) -> None:
    file = put(store, "mono", KEY).path / "record.json"
    content = json.loads(file.read_text()) | {"quantised": True}
    content.pop("sha256")
    write_record(file.parent, content)
    with pytest.raises(UserError, match="quantised"):
        read_record(file.parent)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/version/store"])
def test_an_unwritable_store_is_refused_before_anything_is_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"cannot be written.*ALMA_PIPELINE_STORE"):
        Store(tmp_path / place).check_writable()
    assert sorted(tmp_path.rglob("*")) == before


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b").check_writable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({}, None),
        ({"step-2": '{"schema": 2, "step": 2}', "step-10": '{"schema": 2, "step": 10}'}, 10),
        ({"step-2": '{"schema": 2, "step": 2}', "step-10": None}, 2),
        ({"step-2": '{"schema": 2, "step": 2}', "step-10": '{"st'}, 2),
        ({"step-2": '{"schema": 2, "step": 2}', "step-10.tmp-77aa": '{"schema": 2, "step": 10}'}, 2),
        ({"step-2": '{"schema": 1, "step": 2}', "step-4": '{"step": 4}', "step-6": "[]"}, None),
        ({"step-x": '{"schema": 2, "step": 1}'}, None),
    ],
)
def test_resume_point(store: Store, points: dict[str, str | None], expected: int | None) -> None:
    """B8: the highest point with a manifest, never one that is being written or of another version."""
    for name, text in points.items():
        folder = store.work_path("mono", KEY) / "resume" / name
        folder.mkdir(parents=True)
        if text:
            (folder / "manifest.json").write_text(text)
    found = store.resume_point("mono", KEY)
    assert (found and found["step"]) == expected


def test_a_resume_point_that_its_worker_replaces_meanwhile_is_no_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.work_path("mono", KEY) / "resume" / "step-2"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")

    def replaced(path: Path, encoding: str) -> str:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", replaced)
    assert store.resume_point("mono", KEY) is None


def test_write_json_never_shows_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": "ä"})
    with pytest.raises(TypeError):
        write_json(file, {"a": 1, "b": object()})
    assert json.loads(file.read_text()) == {"a": "ä"}


def test_sync_takes_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x").write_text("x")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sync_tree(tmp_path)
    assert len(synced) == 3
    sync(tmp_path)
    assert len(synced) == 4


def _noting(order: list[str], name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*words: Any, **named: Any) -> Any:
        order.append(name)
        return real(*words, **named)

    return noted
