"""Folders that appear whole or not at all, also after a power cut. Knows nothing of what is in them."""

import os
import shutil
import uuid
from pathlib import Path


def unfinished(final: Path) -> Path:
    """A new empty folder beside `final` to write into; `finish` turns it into `final`."""
    folder = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    return folder


def finish(folder: Path, final: Path) -> None:
    """Put all that was written in `folder` on disk, then give it its name; an older `final` is replaced."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
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
    for path in (*target.rglob("*"), target):
        sync(path)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)
