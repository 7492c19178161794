"""An artifact whose files are not those of its record is not used; what was compared once is not read again."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from alma_pipeline import files
from alma_pipeline.errors import UserError
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.plan.remade import made_again
from alma_pipeline.schema import Config
from alma_pipeline.store.damage import checked_content
from alma_pipeline.store.record import Record, read_record
from alma_pipeline.store.store import Store
from helpers.artifacts import put
from helpers.damage import flip

KEY = "a" * 64
WEIGHTS = "0123456789"
"""SHA-256 84d89877f0d4…"""


@pytest.fixture
def mono(store: Store) -> Record:
    return put(store, "mono", KEY, files={"model.safetensors": WEIGHTS, "log.txt": "fine", "deep/tokenizer.json": "{}"})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content is hashed from here on."""
    names: list[str] = []
    digest = files.digest

    def noting(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(files, "digest", noting)
    return names


def test_a_flipped_bit_stops_with_the_file_both_digests_and_the_command(store: Store, mono: Record) -> None:
    store.check_files(mono)
    flip(mono.path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        Store(store.root).check_files(mono)
    assert str(caught.value) == (
        f"{mono.path}/model.safetensors is damaged: its SHA-256 is 27f227be134e…, recorded 84d89877f0d4…. "
        "Make it again: run the settings that made it with --force mono"
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.unlink(), "model.safetensors is missing. Make"),
        (lambda file: file.write_text(""), "model.safetensors has 0 bytes, recorded 10. Make"),
        (lambda file: (file.unlink(), file.mkdir()), "model.safetensors has"),
    ],
)
def test_a_file_that_is_gone_or_cut_is_named(store: Store, mono: Record, harm: Callable[[Path], None], said: str) -> None:
    harm(mono.path / "model.safetensors")
    with pytest.raises(UserError, match=said):
        store.check_files(mono)


def test_all_damaged_files_are_named_at_once(store: Store, mono: Record) -> None:
    other = put(store, "cpo", "b" * 64)
    flip(mono.path / "model.safetensors")
    flip(other.path / "text.txt")
    with pytest.raises(UserError, match=r"model\.safetensors.*--force mono\n.*text\.txt.*--force cpo"):
        store.check_files(mono, other)


def test_a_damaged_log_stops_no_job_and_is_no_reason_to_train_again(store: Store, mono: Record) -> None:
    (mono.path / "log.txt").write_text("cut")
    store.check_files(mono)
    assert Store(store.root).find(KEY) == mono


def test_a_published_checkpoint_is_taken_from_its_source_again(store: Store) -> None:
    adopted = put(store, "mono", KEY, {"kind": "released", "result": {"repo": "haoranxu/ALMA-7B-Pretrain"}})
    flip(adopted.path / "text.txt")
    with pytest.raises(UserError, match=r"Move \S+ out of the store; .* alma-pipeline adopt mono haoranxu/ALMA-7B-Pretrain"):
        store.check_files(adopted)


def test_each_file_is_read_once_in_all_commands(store: Store, mono: Record, read: list[str]) -> None:
    store.check_files(mono)
    assert read == [], "the commit has just read them"
    (store.root / "digests.json").unlink()
    Store(store.root).check_files(mono)
    assert sorted(read) == ["model.safetensors", "tokenizer.json"]
    Store(store.root).check_files(mono)
    assert len(read) == 2


def test_a_plan_with_nothing_to_do_reads_no_file_of_an_artifact(made: Store, cpo: Config, read: list[str]) -> None:
    plan = make_plan(cpo, Store(made.root))
    assert plan.work == [] and made_again(plan) == [] and read == []


def test_a_content_with_the_old_size_and_time_is_read_again(store: Store, mono: Record) -> None:
    file = mono.path / "model.safetensors"
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="is damaged"):
        store.check_files(mono)


def test_a_store_that_cannot_be_written_is_compared_all_the_same(
    store: Store, mono: Record, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    (store.root / "digests.json").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    colleague = Store(store.root)
    colleague.check_files(mono)
    colleague.check_files(mono)
    assert len(read) == 2 and not (store.root / "digests.json").exists()
    flip(mono.path / "model.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        colleague.check_files(mono)


def test_a_damaged_cache_of_digests_condemns_no_file(store: Store, mono: Record) -> None:
    cache = store.root / "digests.json"
    for text in ("{", "[]", re.sub(r'": "[0-9a-f]{8}', '": "00000000', cache.read_text())):
        cache.write_text(text)
        Store(store.root).check_files(mono)
    Store(store.root).check_files(mono)
    assert cache.read_text().count('": "00000000') == 1, "that of the log, which no job reads"


def test_two_processes_keep_what_each_of_them_compared(store: Store, mono: Record, read: list[str]) -> None:
    cpo = put(store, "cpo", "b" * 64)
    (store.root / "digests.json").unlink()
    first, second = Store(store.root), Store(store.root)
    assert first.digests is not second.digests
    first.check_files(mono)
    second.check_files(cpo)
    assert len(read) == 3
    Store(store.root).check_files(mono, cpo)
    assert len(read) == 3


def test_text_is_compared_as_it_is_read(mono: Record) -> None:
    assert checked_content(mono, "deep/tokenizer.json") == "{}"
    flip(mono.path / "deep" / "tokenizer.json")
    with pytest.raises(UserError, match=r"deep/tokenizer\.json is damaged.*--force mono"):
        checked_content(mono, "deep/tokenizer.json")
    (mono.path / "log.txt").unlink()
    with pytest.raises(UserError, match=r"log\.txt cannot be read: No such file"):
        checked_content(mono, "log.txt")


def test_no_flipped_bit_of_a_record_is_read(mono: Record) -> None:
    """Scores and lineage are in it, and nothing else vouches for them."""
    file = mono.path / "record.json"
    content = file.read_bytes()
    for place, byte in enumerate(content):
        file.write_bytes(content[:place] + bytes([byte ^ 1 << place % 7]) + content[place + 1 :])
        with suppress(UserError):
            assert read_record(mono.path) == mono
