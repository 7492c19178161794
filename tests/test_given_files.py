"""Files outside the store: one that is not what its digest names, or changes while it is read, stops the job."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.files import DigestCache, digest
from alma_pipeline.given_files import GivenFiles


def given(tmp_path: Path) -> tuple[GivenFiles, Path]:
    path = tmp_path / "train.de"
    path.write_text("eins\nzwei\n")
    return GivenFiles({digest(path): str(path)}, DigestCache(None)), path


def test_a_scorers_revision_is_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"weights")
    GivenFiles({f"sha256:{digest(path)}": str(path)}, DigestCache(None)).verify()


def append(path: Path) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write("drei\n")


def append_and_restore(path: Path) -> None:
    before = path.read_bytes()
    append(path)
    path.write_bytes(before)


def replace_as_cp_p_does(path: Path) -> None:
    """Another content of the same size and time."""
    other = path.with_name("other")
    other.write_text("zwei\neins\n")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)


def flip_a_byte_and_set_the_time_back(path: Path) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("eins\nzwEi\n")
    os.utime(path, ns=times)


CHANGES = [append, replace_as_cp_p_does, flip_a_byte_and_set_the_time_back]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_since_the_plan_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files, path = given(tmp_path)
    files.verify()
    change(path)
    with pytest.raises(UserError, match=r"train\.de changed after the plan was made: expected the SHA-256 \w{12}…, found"):
        files.verify()


@pytest.mark.parametrize("change", [*CHANGES, append_and_restore])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files, path = given(tmp_path)
    files.verify()
    files.check_unchanged()
    change(path)
    with pytest.raises(UserError, match=r"train\.de changed while it was read; nothing that was read since is kept"):
        files.check_unchanged()


def test_a_file_that_is_removed_is_named(tmp_path: Path) -> None:
    files, path = given(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"train\.de was removed while it was read"):
        files.check_unchanged()


def test_a_link_another_mode_and_a_copy_of_the_same_content_are_no_change(tmp_path: Path) -> None:
    files, path = given(tmp_path)
    os.link(path, tmp_path / "link")
    files.check_unchanged()
    path.chmod(0o444)
    files.check_unchanged()
    shutil.copy2(path, tmp_path / "copy")
    os.replace(tmp_path / "copy", path)
    files.check_unchanged()
