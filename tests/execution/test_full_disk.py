"""A full disk, whoever writes: the message names it, what is finished is kept, and the same command resumes."""

import errno
import shlex
import shutil
from pathlib import Path

import pytest

from alma_pipeline import disk
from alma_pipeline.cli import main
from alma_pipeline.errors import StageFailed
from helpers.fake_stages.recipes import chain
from helpers.fake_stages.world import World, journal, parent
from helpers.small_disk import allowed, on_small_disk


def test_a_full_disk_is_named_and_the_same_command_resumes(orders: Path, tmp_path: Path, world: World) -> None:
    """A real one where users may mount one; else the kernel's device that is always full."""
    if not allowed():
        world.order("b", end="full", at=1)
        with pytest.raises(StageFailed, match=r"^b: no space left on .* free; free some"):
            world.run(chain())
        world.order("b")
        assert world.run(chain())["c"].result["text"] == "abc"
        return
    store = tmp_path / "disk" / "store"
    (orders / "b.json").write_text('{"write": 3000000}')
    run = shlex.join(parent(store, "server", 2))
    again = f"cat '{store}'/work/b-*/failed-0.txt; rm '{orders}/b.json'; {run}; ls '{store}/work'"
    done = on_small_disk(tmp_path / "disk", 2000, f"{run}; {again}")
    first, _, rest = done.stdout.partition("Traceback")
    assert "a FINISHED" in first and "b FAILED" in first, done.stdout + done.stderr
    assert f"b: no space left on {store}: " in first and "the same command resumes" in first
    assert "No space left on device" in rest and "text abc" in rest
    assert rest.endswith("text abc\n"), "no work folder is left"
    assert len({pid for pid, _ in journal(orders, "a")}) == 1


def test_a_worker_that_never_had_any_space_is_explained_by_its_parent(tmp_path: Path, orders: Path) -> None:
    """It could not even write why: the parent measures the disk."""
    if not allowed():
        error = OSError(errno.EDQUOT, "Disk quota exceeded")
        assert disk.is_full(error) and disk.FULL.search(str(error))
        return
    store = tmp_path / "disk" / "store"
    filler = f"head -c {2_048_000 - 40 * 1024} /dev/zero > '{tmp_path}/disk/filler'"
    done = on_small_disk(tmp_path / "disk", 2000, f"{filler}; {shlex.join(parent(store, 'server', 2))}; echo ended $?")
    assert f"a: no space left on {store}: " in done.stdout and "ended 1" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "OSError: [Errno 28] No space left on device: '/s/x'",
        "OSError: [Errno 122] Disk quota exceeded",
        "sqlite3.OperationalError: database or disk is full",
        "safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 2403520 vs 2403408",
        "RuntimeError: PytorchStreamWriter failed writing file data/0: file write failed",
    ],
)
def test_every_library_s_words_for_a_full_disk_are_known(text: str) -> None:
    assert disk.FULL.search(text) and not disk.FULL.search("OSError: [Errno 13] Permission denied")


def test_a_copied_folder_s_errors_are_known_too() -> None:
    full = shutil.Error([("/a", "/b", "[Errno 28] No space left on device: '/b'")])
    assert disk.is_full(full) and not disk.is_full(shutil.Error([("/a", "/b", "[Errno 13] Permission denied")]))
    assert disk.is_full(OSError(errno.EDQUOT, "")) and not disk.is_full(ValueError("No space left on device"))


def test_a_parent_that_cannot_write_names_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        with open("/dev/full", "w") as file:
            file.write("x")
        return 0

    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path))
    monkeypatch.setattr("alma_pipeline.cli.doctor.main", fail)
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "doctor"])
    assert main.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("alma-pipeline: no space left on ") and said.endswith("and the same command resumes from there\n")
