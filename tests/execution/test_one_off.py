"""One-off jobs: what stays of one that did not come to its end, and where jobs of a read-only store work."""

from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import StageFailed, UserError
from alma_pipeline.execution import one_off
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.kinds import kind_config

KEY = "ab" * 32


def run(root: Path, key: str) -> None:
    merge: Any = kind_config("merge")
    with one_off.run_one_off(root, merge(precision="fp32"), Hardware(name="test"), {}, feed, lambda lines: None, key):
        pytest.fail("the job does not end")


def feed(work: Path) -> None:
    (work / "resume").mkdir()
    (work / "resume" / "outputs.0.jsonl").write_text("[0, [[1]]]\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no scorer")], ids=["interrupted", "refused"])
def test_only_a_job_that_can_be_continued_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """An export is begun anew, so 26 GB of it must not stay; what was translated stays for the next request of its key."""

    def fail(*words: object) -> None:
        raise error

    monkeypatch.setattr(one_off, "start_without_server", fail)
    for key, left in (("", []), (KEY, [f"merge-{KEY[:12]}"])):
        with pytest.raises(type(error)):
            run(tmp_path, key)
        assert [path.name for path in (tmp_path / "aside").iterdir()] == left


def test_a_failed_job_keeps_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(hardware: object, work: Path, *words: object) -> None:
        (work / "log.txt").write_text("why")
        raise StageFailed("merge", "its worker ended", str(work / "log.txt"), "why")

    monkeypatch.setattr(one_off, "start_without_server", fail)
    with pytest.raises(StageFailed) as failed:
        run(tmp_path, "")
    assert Path(failed.value.log).read_text() == "why"


def test_a_scratch_folder_is_ones_own_and_goes_when_it_is_empty(tmp_path: Path) -> None:
    """In a folder that all may write into, another user could have prepared one."""
    with one_off.scratch_root(Path("/proc"), tmp_path / "own") as root:
        assert root == tmp_path / "own" and root.stat().st_mode & 0o777 == 0o700
    assert not root.exists()
    (tmp_path / "link").symlink_to(tmp_path)
    with (
        pytest.raises(UserError, match="belongs to another user; set TMPDIR"),
        one_off.scratch_root(Path("/proc"), tmp_path / "link"),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be created"), one_off.scratch_root(Path("/proc"), tmp_path / "file"):
        pass
