"""Finished artifacts and work in progress on disk. Knows nothing of models, stages or Hydra.

<root>/artifacts/<name>-<key12>/   files, and record.json written last
<root>/work/<name>-<key12>/        a node being made: job.json, log, metrics, resume points, out/
<root>/locks/<key12>.*             who may write; never deleted, so that a lock is always one file
<root>/replaced/                   artifacts that a forced run made again; nothing is ever overwritten
"""

import functools
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alma_pipeline.errors import UserError
from alma_pipeline.files import digest, lock_file, sync, sync_tree, write_json
from alma_pipeline.store.record import SCHEMA, Record, is_whole, read_record


@dataclass
class Work:
    """The right to make one artifact, held through a lock until `close`."""

    name: str
    key: str
    path: Path
    lock: FileLock
    token: str
    """What a worker started under this right shows to prove that it is still wanted."""

    def revoke(self) -> None:
        """Tell every rank of the worker, wherever it runs, that it is no longer wanted; the right itself stays."""
        owner = json.loads((self.path / "owner.json").read_text(encoding="utf-8"))
        write_json(self.path / "owner.json", owner | {"token": ""})

    def close(self) -> None:
        """Let another process have the folder."""
        self.lock.release()


class Store:
    """Artifacts by key under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._folders: list[Path] | None = None

    def check_writable(self) -> None:
        """Raises UserError when nothing can be kept here; leaves nothing behind."""
        existing = next(parent for parent in (self.root, *self.root.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(
                f"the store {self.root} cannot be written: {existing} is not a writable folder; "
                "set ALMA_PIPELINE_STORE to one that is"
            )

    def find(self, key: str) -> Record | None:
        """The finished artifact of a key, its files present with their recorded sizes; else None."""
        found = (read_record(folder) for folder in self._folders_of(key))
        return next((record for record in found if record and record.key == key and is_whole(record)), None)

    def folders(self) -> list[Path]:
        """Where artifacts lie, whole or not."""
        if self._folders is None:
            artifacts = self.root / "artifacts"
            self._folders = sorted(path for path in artifacts.iterdir() if path.is_dir()) if artifacts.is_dir() else []
        return self._folders

    def _folders_of(self, key: str) -> list[Path]:
        """Of this key, or of one that begins alike."""
        return [folder for folder in self.folders() if folder.name.endswith(f"-{key[:12]}")]

    def records(self) -> list[Record]:
        """All finished artifacts, newest first."""
        found = [record for folder in self.folders() if (record := read_record(folder))]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def named(self, name: str) -> list[Record]:
        """Finished artifacts of a node name, newest first."""
        folders = [path for path in self.folders() if path.name.rpartition("-")[0] == name]
        found = [record for folder in folders if (record := read_record(folder))]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def work_path(self, name: str, key: str) -> Path:
        """Where an unfinished artifact of this name and key lies."""
        return self.root / "work" / f"{name}-{key[:12]}"

    def resume_point(self, name: str, key: str) -> dict[str, Any] | None:
        """The manifest of an unfinished node's newest resume point; its worker verifies the files."""
        points = self.work_path(name, key) / "resume"
        found = [manifest for path in points.glob("step-*/manifest.json") if (manifest := _manifest(path))]
        return max(found, key=lambda manifest: int(manifest["step"]), default=None)

    def begin(self, name: str, key: str, waiting: Any = None) -> Work:
        """Take the right to make `key`; waits for another process, and for a worker it left behind.

        `waiting(text)` is called once when there is somebody to wait for.
        """
        return self._begin(name, key, functools.partial(_acquire, waiting=waiting))

    def begin_if_free(self, name: str, key: str) -> Work | None:
        """Take the right to make `key` if nobody holds it."""
        try:
            return self._begin(name, key, lambda lock, text: _lock(lock, timeout=0))
        except Timeout:
            return None

    def _begin(self, name: str, key: str, acquire: Callable[[FileLock, str], None]) -> Work:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        owner_lock, worker_lock = locks / f"{key[:12]}.owner", locks / f"{key[:12]}.worker"
        lock = lock_file(owner_lock)
        acquire(lock, f"{name}: another process is making it; waiting")
        try:
            work = Work(name, key, self.work_path(name, key), lock, secrets.token_hex(8))
            work.path.mkdir(parents=True, exist_ok=True)
            # A new token tells a worker whose own parent died that it is no longer wanted (it polls this file).
            owner = {"token": work.token, "pid": os.getpid(), "host": socket.gethostname()}
            write_json(work.path / "owner.json", owner | {"owner_lock": str(owner_lock), "worker_lock": str(worker_lock)})
            leftover = lock_file(worker_lock)
            acquire(leftover, f"{name}: a worker of an earlier run is ending; waiting")
            leftover.release()
        except BaseException:
            lock.release()
            raise
        self._folders = None
        return work

    def commit(self, work: Work, record: dict[str, Any]) -> Record:
        """Turn `work/out` into the artifact: record last, then one rename. An older artifact is set aside."""
        out = work.path / "out"
        for unfinished in out.glob("record.json*"):
            unfinished.unlink()
        for name in ("metrics.jsonl", "log.txt", "job.json"):
            if (work.path / name).exists():
                shutil.copy2(work.path / name, out / name)
        files = {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
        digests = {name: digest(out / name) for name in files}
        sync_tree(out)
        write_json(out / "record.json", {"schema": SCHEMA, "files": files, "digests": digests} | record)
        sync(out)
        final = self.root / "artifacts" / work.path.name
        final.parent.mkdir(parents=True, exist_ok=True)
        self._folders = None
        for older in self._folders_of(work.key):
            # Under another name too: nodes of equal settings and inputs share one key, and a key has one artifact.
            if older == final or ((replaced := read_record(older)) and replaced.key == work.key):
                self._set_aside(older)
        os.rename(out, final)
        sync(final.parent)
        shutil.rmtree(work.path)
        self._folders = None
        done = read_record(final)
        assert done is not None
        return done

    def _set_aside(self, folder: Path) -> None:
        aside = self.root / "replaced" / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, aside)


def _manifest(path: Path) -> dict[str, Any] | None:
    """None for one that is damaged: the worker passes over it too, and says so in its log."""
    if not path.parent.name.removeprefix("step-").isdigit():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest


def _acquire(lock: FileLock, text: str, waiting: Any) -> None:
    try:
        _lock(lock, timeout=0)
    except Timeout:
        if waiting:
            waiting(text)
        _lock(lock, timeout=-1)


def _lock(lock: FileLock, timeout: float) -> None:
    """Raises Timeout, and UserError where there are no locks."""
    try:
        lock.acquire(timeout=timeout, poll_interval=0.1)
    except Timeout:
        raise
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} cannot be locked ({error}); set ALMA_PIPELINE_STORE to a file system with file locks"
        ) from error
