"""`doctor`: what it finds wrong with an environment and with a store."""

import json
from pathlib import Path

import pytest

from alma_pipeline.cli import doctor
from alma_pipeline.store.record import write_record
from alma_pipeline.store.store import Store
from helpers.artifacts import put

KEY = "a" * 64


@pytest.fixture
def filled(store: Store) -> Store:
    put(store, "mono", KEY, files={"model.bin": "0123456789", "log.txt": "x"})
    put(store, "cpo", "b" * 64)
    return store


def found(store: Store, verify: bool) -> list[str]:
    return list(doctor.store_problems(Store(store.root), verify))


@pytest.mark.parametrize("verify", [False, True])
def test_a_sound_store(filled: Store, verify: bool) -> None:
    assert found(filled, verify) == []


def test_a_flipped_byte_is_found_by_its_digest_alone(filled: Store) -> None:
    file = filled.root / "artifacts" / f"mono-{KEY[:12]}" / "model.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    assert found(filled, verify=False) == []
    assert found(filled, verify=True) == [
        f"{file} has changed content. Make it again: run the settings that made it with --force mono"
    ]


def test_a_file_that_cannot_be_read_is_named_with_its_owner(filled: Store) -> None:
    file = filled.root / "artifacts" / f"mono-{KEY[:12]}" / "model.bin"
    file.unlink()
    file.mkdir()  # as little of a file as one without permission, also for root
    size = file.stat().st_size
    record = json.loads((file.parent / "record.json").read_text()) | {"files": {"model.bin": size}}
    record.pop("sha256")
    write_record(file.parent, record)
    assert found(filled, verify=True) == [
        f"{file} cannot be read (Is a directory); it belongs to {file.owner()}, who can allow it"
    ]


def test_a_short_file_is_found_without_reading(filled: Store) -> None:
    file = filled.root / "artifacts" / f"mono-{KEY[:12]}" / "model.bin"
    file.write_bytes(b"0123")
    assert found(filled, verify=False) == [
        f"{file} has 4 bytes, recorded 10. Make it again: run the settings that made it with --force mono"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no record.json"), ('{"schema": 9}', "schema 9, expected 1"), ("{", "is damaged")],
)
def test_a_folder_with_no_good_record_is_told_and_the_rest_still_read(filled: Store, text: str | None, said: str) -> None:
    record = filled.root / "artifacts" / f"cpo-{'b' * 12}" / "record.json"
    record.unlink() if text is None else record.write_text(text)
    (filled.root / "artifacts" / f"mono-{KEY[:12]}" / "model.bin").unlink()
    first, second = sorted(found(filled, verify=True))
    assert said in first and str(record.parent) in first
    assert "model.bin is missing" in second


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """B4: releases with known faults are told, with the fault and the way out."""
    versions = {name: "1.0" for name in doctor.NEEDED} | {"deepspeed": "0.16.0", "peft": ""}
    monkeypatch.setattr(doctor, "_version", versions.get)
    missing, bad = sorted(doctor.environment(), reverse=True)
    assert missing.startswith("peft is not installed; run `pip install")
    assert bad.startswith("deepspeed 0.16.0: no_sync with ZeRO-3 raises") and "constraints.txt" in bad


def test_this_environment_is_sound() -> None:
    assert list(doctor.environment()) == []


@pytest.mark.parametrize("harm", [False, True])
def test_exit_code_and_text(filled: Store, capsys: pytest.CaptureFixture[str], harm: bool) -> None:
    if harm:
        (filled.root / "artifacts" / f"mono-{KEY[:12]}" / "model.bin").unlink()
    assert doctor.check(filled.root, verify=True) == int(harm)
    text = capsys.readouterr().out
    assert ("model.bin is missing" in text) == harm
    assert ("every file matches its digest" in text) != harm
    assert "2 artifacts" in text


def test_a_path_with_brackets_is_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.check(tmp_path / "[red]", verify=False)
    assert "[red]" in capsys.readouterr().out


def test_doctor_changes_nothing(filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    doctor.check(filled.root, verify=True)
    doctor.check(tmp_path / "none", verify=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("beegfs_nodev /data beegfs rw", "file locks on /data (beegfs) reach one machine unless its clients set tuneUse"),
        ("10.0.0.1@tcp:/x /data lustre rw,localflock", "file locks on /data (lustre) reach one machine; the mount option flock"),
        ("filer:/x /data nfs rw,local_lock=all", "file locks on /data (nfs) reach one machine; the mount option local_lock=none"),
        ("filer:/x /data nfs4 rw,local_lock=none", ""),
        ("/dev/sda1 /data ext4 rw", ""),
    ],
)
def test_locks_that_end_at_the_machine_are_a_note(line: str, found: str) -> None:
    notes = list(doctor.notes(Path("/data/store"), f"/dev/root / ext4 rw 0 0\n{line} 0 0\n"))
    assert len(notes) == bool(found)
    assert not found or (notes[0].startswith(f"note: {found}") and "the next one waits 60 s" in notes[0])
