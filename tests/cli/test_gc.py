"""`gc` deletes what nobody needs, and only when told to."""

import os
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline import files, heartbeat
from alma_pipeline.cli import main
from alma_pipeline.cli.gc import candidates, delete, reachable
from alma_pipeline.errors import UserError
from alma_pipeline.mounts import Reach
from alma_pipeline.store.store import Store
from helpers.another_machine import start
from helpers.artifacts import put

KEYS = {name: f"{number:02d}" * 32 for number, name in enumerate(["base", "old", "new", "text", "sft", "cpo", "alias"], start=10)}


def record(inputs: dict[str, str], **more: Any) -> dict[str, Any]:
    payload = {"kind": "fake", "version": 1, "config": {}, "inputs": {role: KEYS[name] for role, name in inputs.items()}}
    return {"payload": payload} | more


@pytest.fixture
def filled(store: Store) -> Store:
    """base ─ old mono, new mono ─ sft (an adapter on new) with its evaluation; an alias of sft; a lone text."""
    put(store, "base", KEYS["base"], record({}))
    put(store, "mono", KEYS["old"], record({"init": "base"}, created="2026-01-01"))
    put(store, "mono", KEYS["new"], record({"init": "base"}, created="2026-01-02"))
    put(store, "text", KEYS["text"], record({"base": "base"}))
    put(
        store, "sft", KEYS["sft"], record({"corpus": "text"}, checkpoint={"base_key": KEYS["new"], "adapter_keys": [KEYS["sft"]]})
    )
    KEYS.update({"sft.translate": "31" * 32, "sft.score": "32" * 32, "mono.translate": "33" * 32})
    put(store, "sft.translate", KEYS["sft.translate"], record({"checkpoint": "sft", "test": "text"}))
    put(store, "sft.score", KEYS["sft.score"], record({"hypotheses": "sft.translate"}))
    put(store, "mono.translate", KEYS["mono.translate"], record({"checkpoint": "old", "test": "text"}))
    put(store, "sft", KEYS["alias"], record({"init": "old"}, alias_of=KEYS["sft"]))
    return Store(store.root)


def named(store: Store, *kept: str) -> set[str]:
    records = store.records()
    chosen = [one for one in records if one.key in {KEYS[name] for name in kept}]
    return {candidate.path.name for candidate in candidates(store, chosen)}


def folder(name: str, node: str = "") -> str:
    return f"{node or name}-{KEYS[name][:12]}"


def test_without_names_no_artifact_can_go(filled: Store) -> None:
    assert named(filled) == set()


def test_what_a_kept_artifact_needs_stays(filled: Store) -> None:
    """Inputs of inputs, the base it is loaded on, its evaluation, and the alias that points to it."""
    assert named(filled, "sft") == {folder("old", "mono"), folder("mono.translate")}
    lost = (("old", "mono"), ("new", "mono"), ("text",), ("sft",), ("sft.translate",), ("sft.score",))
    assert named(filled, "base") == {folder(*pair) for pair in (*lost, ("mono.translate",), ("alias", "sft"))}
    assert folder("new", "mono") in named(filled, "old") and folder("base") not in named(filled, "old")


def test_what_an_unfinished_node_was_begun_with_stays(filled: Store) -> None:
    work = filled.begin("cpo", KEYS["cpo"])
    given = {"key": KEYS["old"], "base_key": KEYS["old"], "adapter_keys": []}
    (work.path / "job.json").write_text(f'{{"inputs": {{"init": {str(given).replace(chr(39), chr(34))}}}}}')
    work.close()
    assert KEYS["old"] in reachable(filled, filled.records(), [])
    assert named(filled, "sft") == set(), "the old model, and with it its translations"
    (work.path / "job.json").write_text("{")
    with pytest.raises(UserError, match=r"job\.json is damaged"):
        named(filled, "sft")


def test_nothing_is_deleted_while_something_is_made(filled: Store) -> None:
    work = filled.begin("cpo", KEYS["cpo"])
    found = list(candidates(filled, [filled.find(KEYS["sft"])]))  # type: ignore[list-item]
    with pytest.raises(UserError, match=f"a run is active in .*{KEYS['cpo'][:12]}.owner"):
        delete(filled, found)
    assert all(candidate.path.is_dir() for candidate in found) and len(found) == 2
    work.close()
    delete(filled, found)
    assert not any(candidate.path.exists() for candidate in found)
    assert list((filled.root / "replaced").iterdir()) == []


def test_leftovers_go_and_a_running_job_stays(filled: Store) -> None:
    put(filled, "text", KEYS["text"], record({"base": "base"}))  # as --force does: the older one is set aside
    left, running = filled.root / "aside" / "merge-a", filled.root / "aside" / "merge-b"
    for path in (left, running):
        Store(path).begin("merge", "0" * 64).close()
    holder = Store(running).begin("merge", "0" * 64)
    assert {(one.path.parent.name, one.why) for one in candidates(filled, [])} == {
        ("replaced", "replaced by a forced run"),
        ("aside", "left by a job that ended early"),
    }
    assert running not in {one.path for one in candidates(filled, [])}
    holder.close()


def test_what_another_machine_works_on_stays(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its locks do not reach this one, but its heartbeat does; that of a machine that died does not change."""
    for name, value in (("reach", lambda folder: Reach.UNKNOWN), ("STILL_SECONDS", 2.0)):
        monkeypatch.setattr(heartbeat, name, value)
    alive, dead = (filled.root / "aside" / f"merge-{name}" for name in ("alive", "dead"))
    processes = []
    for number, words in enumerate([(alive, "merge", "0" * 64), (dead, "merge", "0" * 64), (filled.root, "cpo", KEYS["cpo"])]):
        (tmp_path / f"locks {number}").mkdir()
        processes.append(start("far", tmp_path / f"locks {number}", "begin", *map(str, words)))
    for process in processes:
        assert process.stdout is not None and process.stdout.readline().startswith("has")
    processes[1].kill()
    found = list(candidates(filled, []))
    assert [one.path for one in found] == [dead]
    assert f"looking for up to 2 s whether process {processes[0].pid} on far still works here" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"a run is active in .*{KEYS['cpo'][:12]}.owner"):
        delete(filled, found)
    for process in processes:
        process.kill()
        process.communicate()
    delete(filled, found)
    assert not dead.exists() and alive.exists()


def test_in_a_store_that_is_read_only_nothing_is_deleted(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = filled.root / "aside" / "merge-a"
    Store(left).begin("merge", "0" * 64).close()
    found = list(candidates(filled, []))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(UserError, match="cannot be written"):
        delete(filled, found)

    def missing(path: Path) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files, "is_locked", missing)
    assert left.is_dir() and list(candidates(filled, [])) == [], "what cannot be locked may be in use"


def test_the_command_lists_and_deletes_only_when_told(
    filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setenv("ALMA_PIPELINE_STORE", str(filled.root))
        monkeypatch.setattr("sys.argv", ["alma-pipeline", "gc", *words])
        return main.main(), capsys.readouterr().out

    def there() -> set[Path]:
        return set((filled.root / "artifacts").iterdir())

    before = there()
    assert command() == (0, "nothing can be deleted; name artifacts to keep with --keep NAME|KEY, and the rest can be\n")
    code, said = command("--keep", KEYS["sft"][:8])
    assert (
        code == 0 and f"artifacts/{folder('old', 'mono')}  (not needed by sft)" in said and "--delete deletes the above" in said
    )
    assert there() == before
    assert command("--keep", KEYS["sft"][:8], "--delete")[0] == 0
    assert before - there() == {filled.root / "artifacts" / name for name in (folder("old", "mono"), folder("mono.translate"))}
    assert command("--keep", "nothing", "--delete")[0] == 2


def test_nothing_goes_while_a_record_is_gone_or_damaged(filled: Store) -> None:
    """What such an artifact was built from is unknown."""
    (file,) = filled.root.glob(f"artifacts/*-{KEYS['new'][:12]}/record.json")
    for harm in (lambda: file.write_text("{"), file.unlink):
        harm()
        with pytest.raises(UserError, match=rf"{file.parent.name}.*(is damaged|has no record)"):
            named(Store(filled.root), "sft")
