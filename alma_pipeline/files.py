"""Durable file operations: digests, atomic writes, locks, fsync. Independent of what the files contain."""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from alma_pipeline.errors import UserError


class DigestCache:
    """SHA-256 of files, cached by path, size, times and inode; saved in `cache` if its folder is writable."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self._known = _saved_digests(cache) if cache else {}

    def of(self, path: Path) -> str:
        """The hex digest of a file. Raises UserError if it cannot be read."""
        try:
            if (identity := _identity(path)) not in self._known:
                self._known[identity] = digest(path)
                self._save()
        except PermissionError as error:
            raise UserError(f"{path} cannot be read: it belongs to {owner(path)}, who can allow it") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        return self._known[identity]

    def afresh(self, path: Path) -> str:
        """The hex digest of a file, computed again in place of a cached one. Raises UserError if it cannot be read."""
        self._known.pop(_identity(path), None)
        return self.of(path)

    def remember(self, found: Mapping[Path, str]) -> None:
        """Add digests that were computed elsewhere, of files as they are now."""
        self._known |= {_identity(path): value for path, value in found.items()}
        self._save()

    def _save(self) -> None:
        if not self.cache or not self.cache.parent.is_dir() or not os.access(self.cache.parent, os.W_OK):
            return
        temporary = self.cache.with_name(f"{self.cache.name}.{secrets.token_hex(4)}")
        try:
            # Another process may have added some since this one read the file.
            self._known = _saved_digests(self.cache) | self._known
            temporary.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
            os.replace(temporary, self.cache)
        except OSError:  # a full disk: the next plan computes the digests again
            temporary.unlink(missing_ok=True)


def _identity(path: Path) -> str:
    """What changes with a file's content. Change time and inode too: `cp -p` replaces the content and keeps the other time."""
    found = path.stat()
    return f"{path}|{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}|{found.st_ino}"


def _saved_digests(cache: Path) -> dict[str, str]:
    """The content of a digest cache; empty if there is none, or if it is damaged: the digests are then computed again."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def owner(path: Path) -> str:
    """The account that owns a file, or its folder where even that cannot be asked; its number if it has no name here."""
    try:
        found = path.stat().st_uid
    except OSError:
        found = path.parent.stat().st_uid
    try:
        return pwd.getpwuid(found).pw_name
    except KeyError:
        return f"user {found}"


def new_folder_beside(final: Path) -> Path:
    """Create an empty folder beside `final` to write into; `finish` moves it to `final`."""
    folder = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    return folder


def put_in_place(folder: Path, final: Path) -> None:
    """Flush `folder` to disk, then rename it to `final`, replacing an older one. The umask decides who may read it."""
    apply_umask(folder)
    sync_tree(folder)
    if final.exists():
        shutil.rmtree(final)
    os.rename(folder, final)
    sync(final.parent)


def apply_umask(folder: Path) -> None:
    """Give every file in `folder` at least the permissions that a new file gets there.

    safetensors and temporary files are for their owner alone, whatever the umask says.
    """
    probe = folder / f".mode-{uuid.uuid4().hex[:8]}"
    probe.touch()
    usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        # Files of others are left alone: hard links to a cache that somebody else filled.
        if path.is_file() and mode | usual != mode and path.stat().st_uid == os.geteuid():
            path.chmod(mode | usual)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of entries, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_or_copy_tree(source: Path, target: Path) -> None:
    """Replace `target` with the tree of `source`, by hard links where the file system has them, else by copies."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, copy_function=_link_or_copy)
    sync_tree(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write atomically: a reader sees the old or the new content, never a part of it, even after a power cut."""
    # Processes of two machines, or of two containers, may have the same number.
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:  # a full disk
        temporary.unlink(missing_ok=True)


def lock_file(path: str | Path) -> FileLock:
    """A lock that the kernel releases when its holder dies; a marker file would survive kill -9."""
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def is_locked(path: str | Path) -> bool:
    """Whether a process holds the lock, as far as this machine sees. Raises OSError if the file system has no locks.

    Asks for a shared lock, which two that ask at the same time both get: neither takes the other for a holder.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # some file systems answer EACCES
        return True
    finally:
        os.close(handle)
    return False


def look_again(*folders: Path) -> None:
    """Make a network file system show what other machines have written into these folders, as far as they exist.

    NFS may remember for 60 s that a file is missing (nfs(5), acdirmax), but not once this machine has changed the folder.
    """
    for folder in folders:
        probe = folder / f".look-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            probe.touch()
            probe.unlink()


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it is on disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def last_digests(cache: Path | None) -> dict[Path, str]:
    """The last digest of every file in a digest cache, those that are gone included; empty if there is no readable cache.

    Artifacts beside the cache are left out: a large store has many, and none is text that somebody brought.
    """
    found = _saved_digests(cache).items() if cache else ()
    own = f"{cache.parent / 'artifacts'}{os.sep}" if cache else ""
    return {Path(identity.rsplit("|", 4)[0]): value for identity, value in found if not identity.startswith(own)}
