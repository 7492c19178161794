"""Who may write an artifact: one process at a time, and never beside a worker that was left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.files import lock_file
from alma_pipeline.store.store import Store

KEY, OTHER = "a" * 64, "b" * 64


def test_begin_tells_a_worker_whom_it_belongs_to(store: Store) -> None:
    first = store.begin("mono", KEY)
    owner = json.loads((first.path / "owner.json").read_text())
    assert owner["token"] == first.token and owner["pid"] == os.getpid()
    first.close()
    second = store.begin("mono", KEY)
    assert second.token != first.token
    second.close()


def test_a_work_folder_in_which_nothing_was_begun_is_removed(store: Store) -> None:
    """As after several runs at once, of which one makes the artifact and the others find it."""
    store.begin("mono", KEY).close()
    assert not list((store.root / "work").iterdir())
    work = store.begin("mono", KEY)
    (work.path / "job.json").write_text("{}")
    work.close()
    assert sorted(path.name for path in work.path.iterdir()) == ["job.json", "owner.json"]


def test_begin_waits_for_another_process_and_says_so_once(store: Store) -> None:
    holder = _holding(store.root / "locks" / f"{KEY[:12]}.owner", seconds=0.6)
    told: list[str] = []
    store.begin("mono", KEY, told.append).close()
    assert told == ["mono: waiting for another process that is running it"]
    assert holder.wait() == 0


def test_begin_waits_for_a_worker_that_was_left_behind(store: Store) -> None:
    holder = _holding(store.root / "locks" / f"{KEY[:12]}.worker", seconds=0.6)
    told: list[str] = []
    work = store.begin("mono", KEY, told.append)
    assert told == ["mono: waiting for a worker of an earlier run to exit"]
    assert holder.wait() == 0
    work.close()


def test_other_keys_do_not_wait(store: Store) -> None:
    one, other = store.begin("mono", KEY), store.begin("mono", OTHER)
    assert one.path != other.path
    one.close()
    other.close()


def test_a_failed_begin_lets_the_lock_go(store: Store) -> None:
    (store.root / "work").mkdir(parents=True)
    (store.root / "work" / f"mono-{KEY[:12]}").write_text("a file where the work folder goes")
    with pytest.raises(FileExistsError):
        store.begin("mono", KEY)
    (store.root / "work" / f"mono-{KEY[:12]}").unlink()
    store.begin("mono", KEY).close()


def test_a_lock_is_freed_by_its_holders_death(tmp_path: Path) -> None:
    holder = _holding(tmp_path / "lock", seconds=60)
    holder.kill()
    holder.wait()
    lock = lock_file(tmp_path / "lock")
    lock.acquire(timeout=5)
    lock.release()
    assert (tmp_path / "lock").exists(), "the file stays: a lock is always one file"


def test_a_disk_without_locks_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker file instead would stay after kill -9."""
    import fcntl

    def missing(*words: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(UserError, match=r"cannot be locked.*file locks"):
        store.begin("mono", KEY)


def _holding(lock: Path, seconds: float) -> "subprocess.Popen[bytes]":
    """A process that holds a lock for a time; returns when it has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    code = (
        "import sys, time; from alma_pipeline.files import lock_file; lock = lock_file(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(lock), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process
