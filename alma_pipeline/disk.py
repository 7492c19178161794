"""Free space on a disk, and how a full one shows in an error. Independent of what is written."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alma_pipeline.units import size

FULL = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full|\[Errno (28|122)\]|\(os error (28|122)\)|"
    r"PytorchStreamWriter failed writing|inline_container.*unexpected pos"
)
"""How Python, SQLite, safetensors (Rust) and torch report a full disk."""
NOTHING_BYTES = 1_000_000
"""Below this a disk is full whatever the error says: the file that did not fit may leave a rest."""


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write to the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def is_full(error: BaseException) -> bool:
    """Whether a full disk or quota caused this error."""
    if isinstance(error, shutil.Error):  # of copytree, which collects the errors of all files
        return bool(FULL.search(str(error)))
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def fullest(folder: Path) -> Path:
    """Which of a folder, the temporary folder and the hub's cache has the least space: libraries write to all three."""
    others: Sequence[Path] = (Path(tempfile.gettempdir()), hub_cache())
    return min((folder, *others), key=free_bytes)


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def is_in_hub_cache(repo: str) -> bool:
    """Whether the hub's cache has files of a model, so that an artifact of it, made of hard links, takes no space of its own."""
    return any((hub_cache() / f"models--{repo.replace('/', '--')}").glob("snapshots/*/*"))


def no_space(folder: Path) -> str:
    """The sentence for a full disk."""
    return f"no space left on {folder}: {size(free_bytes(folder))} free"
