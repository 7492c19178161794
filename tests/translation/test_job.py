"""A translation that was broken off, or that runs twice at once, or from a store that is only read."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from alma_pipeline.execution import one_off
from alma_pipeline.store.store import Store, WorkFolder
from alma_pipeline.translation import job
from helpers.translating import SETTINGS, command

pytestmark = pytest.mark.usefixtures("here")


def test_a_broken_off_translation_is_continued(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its content: from another file, to another output. A different text or setting is another request."""
    words, (first, second) = [*SETTINGS, "direction=de-en"], (tmp_path / "a.txt", tmp_path / "b.txt")
    for file in (first, second):
        file.write_text("3. Mai\n4. Juni\n")
    assert command(filled.root, monkeypatch, *words, str(first)) == 0
    expected = capsys.readouterr().out
    progress = job._progress
    monkeypatch.setattr(job, "_progress", interrupt)
    assert command(filled.root, monkeypatch, *words, str(first)) == 130
    assert capsys.readouterr().out == ""
    [left] = (filled.root / "aside").iterdir()
    # Another output in the place of the first sentence's shows which sentences are decoded again.
    [kept] = left.rglob("outputs.0.jsonl")
    index, outputs = json.loads(kept.read_text().splitlines()[0])
    kept.write_text(json.dumps([index, [outputs[0][:1]]]) + "\n")
    for result in left.rglob("result.json"):
        result.unlink()
    monkeypatch.setattr(job, "_progress", progress)
    assert command(filled.root, monkeypatch, *words, "evaluation.num_beams=1", str(second)) == 0
    assert [path.name for path in (filled.root / "aside").iterdir()] == [left.name]
    capsys.readouterr()
    assert command(filled.root, monkeypatch, *words, str(second), "--output", str(tmp_path / "out.txt")) == 0
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert [line == old for line, old in zip(lines, expected.splitlines(), strict=True)].count(True) == 1
    assert not list((filled.root / "aside").iterdir()), "it clears up after success"


def interrupt(lines: object) -> None:
    raise KeyboardInterrupt


def test_two_equal_requests_at_once(filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The second works in a folder of its own, and leaves the first's alone."""
    names: list[Path] = []
    begin = one_off._begin

    def watched(aside: Path, name: str, key: str) -> tuple[Path, WorkFolder]:
        folder, work = begin(aside, name, key)
        names.append(folder)
        return folder, work

    monkeypatch.setattr(one_off, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(one_off, "_begin", watched)
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n") == 0
    expected = capsys.readouterr().out
    first = Store(names[0]).begin("translate_text", one_off.PLACEHOLDER_KEY)
    (first.path / "mine").touch()
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n") == 0
    assert capsys.readouterr().out == expected and (first.path / "mine").exists()
    assert len({*names}) == 2 and [path.name for path in (filled.root / "aside").iterdir()] == [names[0].name]
    first.close()
    shutil.rmtree(names[0])


def test_a_store_that_is_read_only_needs_a_scratch_folder(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "artifacts").symlink_to(filled.root / "artifacts")
    (tmp_path / "store" / "aside").write_text("no folder")  # root may write into every folder
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    before = {path.name for path in (tmp_path / "store").iterdir()} | {"digests.json"}
    assert command(tmp_path / "store", monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n") == 0
    said, scratch = capsys.readouterr(), tmp_path / f"alma_pipeline-{os.getuid()}"
    assert len(said.out.splitlines()) == 1 and {path.name for path in (tmp_path / "store").iterdir()} == before
    assert f"the store {tmp_path}/store is read-only, so unfinished work is kept in {scratch}" in said.err
    assert not scratch.exists(), "it clears up after success"
