"""Finished artifacts and work in progress on disk. Independent of models, stages and Hydra.

<root>/artifacts/<name>-<key12>/   files, and record.json written last
<root>/work/<name>-<key12>/        a running or unfinished node: job.json, log, metrics, resume points, out/
<root>/locks/<key12>.*             who may write; locks are never deleted, since one must always be the same file
<root>/replaced/                   artifacts replaced by a forced run; nothing is ever overwritten
"""

import contextlib
import functools
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.files import DigestCache, apply_umask, digest, owner, sync, sync_tree, write_json
from alma_pipeline.job import RESUME_SCHEMA
from alma_pipeline.lease import Lease, wait_until_free
from alma_pipeline.store.damage import check_files
from alma_pipeline.store.record import Record, incomplete_file, is_complete, read_record, write_record


@dataclass
class WorkFolder:
    """The exclusive right to make one artifact in its work folder; a lock holds it until `close`."""

    name: str
    key: str
    path: Path
    lease: Lease
    token: str
    """Passed to the worker, which exits when `owner.json` no longer has this token."""

    def check_owned(self) -> None:
        """Raise PipelineError if a process on another machine has taken the folder over, because this one seemed dead."""
        found = self._owner()
        if found.get("token") != self.token:
            raise PipelineError(
                f"{self.name}: process {found.get('pid')} on {found.get('host')} has taken over {self.path}, because this one "
                "did not renew its heartbeat: it was suspended, or the store did not answer; the work continues there"
            )

    def revoke(self) -> None:
        """Make every rank of the worker exit, on any machine, by invalidating the token; the lock stays held."""
        if (owner := self._owner()).get("token") == self.token:
            write_json(self.path / "owner.json", owner | {"token": ""})

    def close(self) -> None:
        """Release the lock, so that another process can take over the folder; one in which nothing was begun is removed."""
        with contextlib.suppress(OSError):
            if [path.name for path in self.path.iterdir()] == ["owner.json"] and self._owner().get("token") in ("", self.token):
                (self.path / "owner.json").unlink()
                self.path.rmdir()
        self.lease.release()

    def _owner(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "owner.json").read_text(encoding="utf-8"))
        return found


class Busy(Exception):
    """Another process or its worker holds a work folder."""


class Store:
    """The artifacts under one root, by key."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._folders: list[Path] | None = None

    @functools.cached_property
    def digests(self) -> DigestCache:
        """SHA-256 of text files and of the store's own files, remembered between commands where the store can be written."""
        return DigestCache(self.root / "digests.json")

    def check_files(self, *records: Record) -> None:
        """Compare every file that a job reads of these artifacts with its record, once for each file as it is now.

        Raises UserError that names all that differ, each with what to do.
        """
        check_files(records, self.digests)

    def check_writable(self) -> None:
        """Raise UserError if the store cannot be written. Creates nothing."""
        existing = next(parent for parent in (self.root, *self.root.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(
                f"the store {self.root} cannot be written: {existing} is not a writable folder; "
                "set ALMA_PIPELINE_STORE to a writable one"
            )

    def find(self, key: str) -> Record | None:
        """The finished, complete artifact of a key (see `is_complete`); None if there is none.

        Raises UserError if its record is missing, is damaged or cannot be read: it must not pass for absent.
        """
        found = (read_record(folder) for folder in self._folders_of(key))
        return next((record for record in found if record and record.key == key and is_complete(record)), None)

    def incomplete(self, key: str) -> str:
        """What the artifact of a key lacks, if it exists but cannot be used; empty if it is complete, or if there is none."""
        for folder in self._folders_of(key):
            record = read_record(folder)
            if record and record.key == key and (text := incomplete_file(record)):
                return f"{folder}/{text}"
        return ""

    def folders(self) -> list[Path]:
        """All artifact folders, complete or not, sorted; the listing is cached until this process changes it."""
        if self._folders is None:
            artifacts = self.root / "artifacts"
            try:
                self._folders = sorted(path for path in artifacts.iterdir() if path.is_dir()) if artifacts.is_dir() else []
            except PermissionError as error:
                raise UserError(f"{artifacts} cannot be read: it belongs to {owner(artifacts)}, who can allow it") from error
        return self._folders

    def _folders_of(self, key: str) -> list[Path]:
        """Artifact folders whose key starts with the same 12 digits."""
        return [folder for folder in self.folders() if folder.name.endswith(f"-{key[:12]}")]

    def unreadable(self) -> dict[Path, str]:
        """Artifact folders whose record is missing, damaged or cannot be read, each with the reason and what to do."""
        found = {}
        for folder in self.folders():
            try:
                read_record(folder)
            except UserError as error:
                found[folder] = str(error)
        return found

    def records(self) -> list[Record]:
        """All finished artifacts whose record can be read, newest first."""
        found = [record for folder in self.folders() if (record := _readable(folder))]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def named(self, name: str) -> list[Record]:
        """Finished artifacts of a node whose record can be read, newest first."""
        folders = [path for path in self.folders() if path.name.rpartition("-")[0] == name]
        found = [record for folder in folders if (record := _readable(folder))]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def work_path(self, name: str, key: str) -> Path:
        """The work folder of a node and key; it need not exist."""
        return self.root / "work" / f"{name}-{key[:12]}"

    def resume_point(self, name: str, key: str) -> dict[str, Any] | None:
        """The manifest of an unfinished node's newest resume point, or None; the worker verifies its files."""
        points = self.work_path(name, key) / "resume"
        found = [manifest for path in points.glob("step-*/manifest.json") if (manifest := _manifest(path))]
        return max(found, key=lambda manifest: int(manifest["step"]), default=None)

    def skipped_resume_point(self, name: str, key: str) -> bool:
        """Whether an unfinished node has resume points, but none that can be used: damaged, or of another version."""
        manifests = (self.work_path(name, key) / "resume").glob("step-*/manifest.json")
        return any(manifests) and self.resume_point(name, key) is None

    def begin(self, name: str, key: str, waiting: Any = None) -> WorkFolder:
        """Acquire the right to make `key`, after any other process that holds it and any worker it left behind.

        `waiting(text)` is called once before each wait. Raises UserError if the store's file system has no locks.
        """
        return self._begin(name, key, waiting or _ignore)

    def begin_if_free(self, name: str, key: str) -> WorkFolder | None:
        """Acquire the right to make `key` without waiting; None if another process or worker holds it."""
        try:
            return self._begin(name, key, _refuse)
        except Busy:
            return None

    def _begin(self, name: str, key: str, waiting: Callable[[str], None]) -> WorkFolder:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        owner_lock, worker_lock = locks / f"{key[:12]}.owner", locks / f"{key[:12]}.worker"
        # First the parents, one at a time; then the worker that an earlier parent may have left.
        lease = Lease(owner_lock)
        lease.acquire(lambda whom: waiting(f"{name}: waiting for another process that is running it{whom}"))
        work = WorkFolder(name, key, self.work_path(name, key), lease, secrets.token_hex(8))
        try:
            work.path.mkdir(parents=True, exist_ok=True)
            # Workers poll this file: a new token makes one exit whose own parent died.
            owner = {"token": work.token, "pid": lease.holder.pid, "host": lease.holder.host, "beat": lease.number}
            write_json(work.path / "owner.json", owner | {"owner_lock": str(owner_lock), "worker_lock": str(worker_lock)})
            # A worker may outlive its parent for a moment; two must never write to one folder.
            wait_until_free(worker_lock, lambda whom: waiting(f"{name}: waiting for a worker of an earlier run to exit{whom}"))
        except BaseException:
            work.close()
            raise
        self._folders = None
        return work

    def commit(self, work: WorkFolder, record: dict[str, Any]) -> Record:
        """Turn `work/out` into the artifact: write the record last, then rename. An older artifact moves to `replaced/`.

        Raises PipelineError if another process has taken the folder over.
        """
        work.check_owned()
        out = work.path / "out"
        # An earlier commit may have been killed while it wrote the record.
        for partial in out.glob("record.json*"):
            partial.unlink()
        # Copies, not moves: the work folder must stay usable until the rename.
        for name in ("metrics.jsonl", "log.txt", "job.json"):
            if (work.path / name).exists():
                shutil.copy2(work.path / name, out / name)
        apply_umask(out)
        # After the copies, so that they are recorded too.
        files = {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
        digests = {name: digest(out / name) for name in files}
        # Files reach the disk before the record that vouches for them, so a record proves that they are complete.
        sync_tree(out)
        write_record(out, {"files": files, "digests": digests} | record)
        sync(out)
        work.check_owned()  # again: digests of many gigabytes take minutes
        final = self.root / "artifacts" / work.path.name
        final.parent.mkdir(parents=True, exist_ok=True)
        self._folders = None
        for older in self._folders_of(work.key):
            # Under other names too: nodes with equal settings and inputs share a key, and a key has one artifact.
            if older == final or ((replaced := _readable(older)) and replaced.key == work.key):
                self.move_to_replaced(older)
        os.rename(out, final)
        sync(final.parent)
        # Last: until the rename is on disk, the work folder is what a new attempt would use.
        shutil.rmtree(work.path)
        # After the work folder, whose hard links to these files change their times as they go.
        self.digests.remember({final / name: value for name, value in digests.items()})
        self._folders = None
        done = read_record(final)
        assert done is not None
        return done

    def move_to_replaced(self, folder: Path) -> None:
        """Take an artifact folder out of use without deleting it."""
        target = self.root / "replaced" / f"{folder.name}-{instants.stamp()}-{secrets.token_hex(2)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, target)
        self._folders = None


def _readable(folder: Path) -> Record | None:
    """The record of an artifact folder; None if there is none, or if it is damaged or cannot be read."""
    try:
        return read_record(folder)
    except UserError:
        return None


def _manifest(path: Path) -> dict[str, Any] | None:
    """A resume point's manifest; None if it is damaged or of another version, which the worker skips too, or has just gone."""
    if not path.parent.name.removeprefix("step-").isdigit():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError):  # a worker in training has replaced it by a newer one
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("schema") == RESUME_SCHEMA else None


def _ignore(text: str) -> None:
    """Wait without a word."""


def _refuse(text: str) -> None:
    """Do not wait."""
    raise Busy(text)
