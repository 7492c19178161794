"""Files that verbs write for their user: what cannot be written is known before the work, and nothing is left half written."""

import os
import stat
import threading
from pathlib import Path

import pytest

from alma_pipeline import output_file
from alma_pipeline.errors import UserError


def test_a_file_replaces_an_older_one_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    output_file.write(path, "old")
    path.chmod(0o640)
    output_file.write(path, "new 猫")
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"] and path.read_text(encoding="utf-8") == "new 猫"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_file_behind_a_link_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real.txt")
    output_file.write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real.txt").read_text() == "x"


def test_checking_leaves_nothing_and_folders_are_made_at_the_end(tmp_path: Path) -> None:
    output_file.check(tmp_path / "a" / "b" / "x.txt")
    assert not list(tmp_path.iterdir())
    output_file.write(tmp_path / "a" / "b" / "x.txt", "x")
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "x"


def test_a_name_of_the_greatest_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    output_file.check(path)
    output_file.write(path, "x")
    assert path.read_text() == "x"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is a folder; expected a file"),
        ("file/x.txt", "cannot be written: Not a directory"),
        ("x" * 256, "cannot be written: File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=said):
        output_file.check(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(UserError, match="x cannot be written: no permission; give another path with --output FILE"):
        output_file.check(tmp_path / "x")


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    output_file.check(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    output_file.write(tmp_path / "pipe", "x\n")
    reader.join(10)
    assert read == ["x\n"] and (tmp_path / "pipe").is_fifo()
