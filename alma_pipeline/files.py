"""SHA-256 of files, remembered as long as a file's size, time and place stay the same. Knows nothing of what is in them."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock

from alma_pipeline.errors import UserError


class Digests:
    """Digests of files; large ones are kept in a file of the store, where there is one that can be written."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self._known: dict[str, str] = {}
        if cache and cache.is_file():
            try:
                self._known = json.loads(cache.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # half-written, or nobody's to read: only time is lost
                self._known = {}

    def of(self, path: Path) -> str:
        """The digest in hex. Raises UserError for a file that cannot be read."""
        try:
            facts = path.stat()
            # The inode and the time of change too: a copy that keeps the old time (`cp -p`) is another file.
            mark = f"{path}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}|{facts.st_ino}"
            if mark not in self._known:
                with open(path, "rb") as file:
                    self._known[mark] = hashlib.file_digest(file, "sha256").hexdigest()
                self._keep()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        return self._known[mark]

    def _keep(self) -> None:
        if not self.cache or not self.cache.parent.is_dir() or not os.access(self.cache.parent, os.W_OK):
            return
        draft = self.cache.with_name(f"{self.cache.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
            os.replace(draft, self.cache)
        except OSError:  # a full disk: the next plan reads the file again
            draft.unlink(missing_ok=True)


def unfinished(final: Path) -> Path:
    """A new empty folder beside `final` to write into; `finish` turns it into `final`."""
    folder = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    return folder


def finish(folder: Path, final: Path) -> None:
    """Put all that was written in `folder` on disk, then give it its name; an older `final` is replaced."""
    sync_tree(folder)
    if final.exists():
        shutil.rmtree(final)
    os.rename(folder, final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy(source: Path, target: Path) -> None:
    """The files of `source` as those of `target`, whatever stood there; linked, not copied, where the disk can."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, copy_function=_link_or_copy)
    sync_tree(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)


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


def lock_file(path: str | Path) -> FileLock:
    """A lock that the system frees when its holder dies. Never a marker file, which kill -9 would leave behind."""
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it are on disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
