"""Where translations go, and what is said of them: known before, UTF-8 always, kept until they are written."""

import io
import json
import sys
from pathlib import Path

import pytest

from alma_pipeline.store.store import Store
from alma_pipeline.translation import output
from helpers.tiny_checkpoint import write
from helpers.translating import SETTINGS, command, start_nothing

pytestmark = pytest.mark.usefixtures("here")


def test_outputs_that_cannot_be_written_are_refused_before_a_model_is_loaded(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_nothing(monkeypatch)
    file = tmp_path / "in.txt"
    file.write_text("3. Mai\n")
    (tmp_path / "link.txt").symlink_to(file)
    for name, said in (
        ("", "is a folder; expected a file"),
        ("in.txt/out.txt", "cannot be written: Not a directory"),
        ("in.txt", "in.txt is both read and written; write the translations to another file"),
        ("link.txt", "in.txt is both read and written"),
    ):
        words = [*SETTINGS, "direction=de-en", str(file), "--output", str(tmp_path / name)]
        assert command(filled.root, monkeypatch, *words) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setattr(output, "CLOSED", {1})
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", str(file)) == 2
    assert "standard output is closed" in capsys.readouterr().err and file.read_text() == "3. Mai\n"


def test_translations_that_cannot_be_written_at_the_end_are_kept(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SETTINGS, "direction=de-en", "--output"]
    assert command(filled.root, monkeypatch, *words, "/dev/full", given="3. Mai\n") == 2
    assert "No space left on device; give another path with --output FILE; the translations are kept" in capsys.readouterr().err
    start_nothing(monkeypatch)
    assert command(filled.root, monkeypatch, *words, str(tmp_path / "new" / "out.txt"), given="3. Mai\n") == 0
    assert len((tmp_path / "new" / "out.txt").read_text(encoding="utf-8").splitlines()) == 1
    assert not list((filled.root / "aside").iterdir())


def test_translations_are_utf8_whatever_the_terminal(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And JSON lines flag what standard error counts."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    english = "The committee met on Tuesday to discuss the new budget proposal."
    write(tmp_path / "rows.jsonl", [{"source": text, "direction": "de-en"} for text in (f"Ä {'3. Mai ' * 90}", "\n", english)])
    assert command(filled.root, monkeypatch, *SETTINGS, str(tmp_path / "rows.jsonl"), "--output", "-") == 0
    rows = [json.loads(line) for line in written.getvalue().decode("utf-8").splitlines()]
    assert [row["translation_flags"] for row in rows] == [
        ["source_cut", "translation_cut"],
        [],
        ["source_looks_like_en", "translation_cut"],
    ]
    assert rows[0]["source"].startswith("Ä") and rows[1]["translation"] == "\n"
    said = capsys.readouterr().err
    assert f"1 of 2 sources looks like English, not German ({tmp_path}/rows.jsonl, line 3)" in said
    assert f"1 of 2 lines were cut at 256 tokens ({tmp_path}/rows.jsonl, line 1); raise stages.translate.max_source" in said
    assert "2 of 2 translations were cut at 4 tokens" in said and "lines 1 and 3); raise stages.translate.max_new_tokens" in said
