"""A disk that is soon full: a tmpfs in a user namespace of its own, which needs no root."""

import shutil
import subprocess
from pathlib import Path

UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def allowed() -> bool:
    """Whether this machine lets its users mount a tmpfs of their own; many containers do not."""
    command = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def on_small_disk(folder: Path, kilobytes: int, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell script with a disk of this size on a folder; the disk and its files are gone afterwards."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k none '{folder}'"
    command = [*UNSHARE, "sh", "-c", f"{mount}\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
