"""Finished artifacts and work in progress on disk. Knows nothing of models, stages or Hydra.

<root>/artifacts/<name>-<key12>/   files, and record.json written last
<root>/work/<name>-<key12>/        a node being made: job.json, log, metrics, resume points, out/
<root>/locks/<key12>.*             who may write; never deleted, so that a lock is always one file
<root>/replaced/                   artifacts that a forced run made again; nothing is ever overwritten
"""

import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alma_pipeline.errors import UserError

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """What is known of a finished artifact: the content of its `record.json`, and where it lies."""

    path: Path
    name: str
    key: str
    kind: str
    payload: dict[str, Any]
    result: dict[str, Any]
    files: dict[str, int]
    """Size by relative path: what a reuse checks."""
    digests: dict[str, str]
    """SHA-256 by relative path: what `doctor --verify` checks."""
    created: str
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """Of a checkpoint: {form, base_key, adapter_keys}, how to load it."""
    mlflow_run: str = ""
    alias_of: str = ""
    """Of an adopted artifact: the key it really has."""


@dataclass
class Work:
    """The right to make one artifact, held through a lock until `close`."""

    name: str
    key: str
    path: Path
    lock: FileLock
    worker_lock: Path

    def close(self) -> None:
        self.lock.release()


class Store:
    """Artifacts by key under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._folders: dict[str, Path] | None = None

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
        folder = self._index().get(key[:12])
        record = read_record(folder) if folder else None
        if record is None or record.key != key or not is_whole(record):
            return None
        return record

    def records(self) -> list[Record]:
        """All finished artifacts, newest first."""
        found = [record for folder in self._index().values() if (record := read_record(folder))]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def named(self, name: str) -> list[Record]:
        """Finished artifacts of a node name, newest first."""
        folders = [path for path in self._index().values() if path.name.rpartition("-")[0] == name]
        found = [record for folder in folders if (record := read_record(folder))]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def _index(self) -> dict[str, Path]:
        if self._folders is None:
            artifacts = self.root / "artifacts"
            entries = list(os.scandir(artifacts)) if artifacts.is_dir() else []
            self._folders = {entry.name.rpartition("-")[2]: Path(entry.path) for entry in entries}
        return self._folders

    def work_path(self, name: str, key: str) -> Path:
        return self.root / "work" / f"{name}-{key[:12]}"

    def resume_step(self, name: str, key: str) -> int | None:
        """The newest resume point of an unfinished node: the step it names, unverified."""
        points = self.work_path(name, key) / "resume"
        steps = [
            int(manifest.parent.name.removeprefix("step-"))
            for manifest in points.glob("step-*/manifest.json")
            if manifest.parent.name.removeprefix("step-").isdigit()
        ]
        return max(steps, default=None)

    def begin(self, name: str, key: str, waiting: Any = None) -> Work:
        """Take the right to make `key`; waits for another process, and for a worker it left behind.

        `waiting(text)` is called once when there is somebody to wait for.
        """
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{key[:12]}.owner")
        _acquire(lock, waiting, f"{name}: another process is making it; waiting")
        worker_lock = locks / f"{key[:12]}.worker"
        work = Work(name, key, self.work_path(name, key), lock, worker_lock)
        work.path.mkdir(parents=True, exist_ok=True)
        # A new token tells a worker whose own parent died that it is no longer wanted (it polls this file).
        owner = {"token": secrets.token_hex(8), "pid": os.getpid(), "host": socket.gethostname()}
        owner |= {"owner_lock": str(lock.lock_file), "worker_lock": str(worker_lock)}
        write_json(work.path / "owner.json", owner)
        leftover = FileLock(worker_lock)
        _acquire(leftover, waiting, f"{name}: a worker of an earlier run is ending; waiting")
        leftover.release()
        self._folders = None
        return work

    def commit(self, work: Work, record: dict[str, Any]) -> Record:
        """Turn `work/out` into the artifact: record last, then one rename. An older artifact is set aside."""
        out = work.path / "out"
        for name in ("metrics.jsonl", "log.txt", "job.json"):
            if (work.path / name).exists():
                shutil.copy2(work.path / name, out / name)
        files = {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
        files.pop("record.json", None)
        digests = {name: digest(out / name) for name in files}
        write_json(out / "record.json", {"schema": SCHEMA, "files": files, "digests": digests} | record)
        final = self.root / "artifacts" / work.path.name
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            aside = self.root / "replaced" / f"{final.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(final, aside)
        os.rename(out, final)
        _sync_folder(final.parent)
        shutil.rmtree(work.path)
        self._folders = None
        done = read_record(final)
        assert done is not None
        return done


def read_record(folder: Path) -> Record | None:
    """The record of an artifact folder; None when the folder is not finished."""
    try:
        raw = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if raw.get("schema") != SCHEMA:
        raise UserError(f"{folder}/record.json has schema {raw.get('schema')}, expected {SCHEMA}: made by another version")
    raw.pop("schema")
    return Record(path=folder, **raw)


def is_whole(record: Record) -> bool:
    """Every file there, with its size. Digests are `doctor --verify`'s business."""
    try:
        return all(os.stat(record.path / name).st_size == size for name, size in record.files.items())
    except FileNotFoundError:
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write so that a reader sees the old or the new content, never a part, also after a power cut."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _acquire(lock: FileLock, waiting: Any, text: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting:
            waiting(text)
        lock.acquire(poll_interval=0.1)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
