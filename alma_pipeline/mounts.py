"""How far the file locks of a folder's file system reach, by the mount table. Takes no lock itself.

Sources: nfs(5) for `local_lock` and `nolock`; mount.lustre(8) for `flock` and `localflock`; BeeGFS's client configuration, where
`tuneUseGlobalFileLocks` is false by default; flock(2).
"""

import functools
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

TABLE = Path("/proc/self/mounts")
LOCAL_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "overlay", "vfat", "exfat"}
"""File systems that one machine mounts: whoever can write there asks the same kernel for a lock."""
CLUSTER_DISKS = {"ceph", "gpfs"}
"""Network file systems whose locks always reach all machines."""


class Reach(Enum):
    """Which machines a file lock excludes."""

    ALL = "all machines"
    ONE = "one machine"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Mount:
    """A line of the mount table."""

    point: Path
    type: str
    options: frozenset[str]

    @property
    def reach(self) -> Reach:
        """How far its locks reach, as far as the table shows."""
        if self.type in LOCAL_DISKS | CLUSTER_DISKS:
            return Reach.ALL
        if self.type in ("nfs", "nfs4"):
            return Reach.ONE if self.options & {"nolock", "local_lock=all", "local_lock=flock"} else Reach.ALL
        if self.type == "lustre" and self.options & {"flock", "localflock"}:
            return Reach.ALL if "flock" in self.options else Reach.ONE
        return Reach.UNKNOWN


def mount_of(path: Path, table: str | None = None) -> Mount | None:
    """The mount that a path is on, by the text of a mount table (default: this process's own); None if that is not known.

    The path need not exist.
    """
    text = _own_table() if table is None else table
    found = None
    for line in text.splitlines():
        words = line.split(" ")
        # The table writes a space as \040, a tab as \011.
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), words[1]))
        # A later mount covers an earlier one.
        if path.absolute().is_relative_to(point) and (found is None or len(point.parts) >= len(found.point.parts)):
            found = Mount(point, words[2], frozenset(words[3].split(",")))
    return found


def _own_table() -> str:
    try:
        return TABLE.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return ""


@functools.cache
def reach(folder: Path) -> Reach:
    """How far file locks in a folder reach."""
    mount = mount_of(folder.resolve())
    return mount.reach if mount else Reach.UNKNOWN


def lock_note(mount: Mount) -> str:
    """What a file system whose locks may not reach all machines means for a store on it; empty if they do."""
    if mount.reach is Reach.ALL:
        return ""
    if mount.type == "beegfs":
        found = "reach one machine unless its clients set tuneUseGlobalFileLocks=true"
    elif mount.reach is Reach.ONE:
        found = "reach one machine"
    else:
        found = "may reach one machine only"
    advice = {"lustre": "; the mount option flock changes that", "nfs": "; the mount option local_lock=none changes that"}
    return f"file locks on {mount.point} ({mount.type}) {found}{advice.get(mount.type.rstrip('4'), '')}"
