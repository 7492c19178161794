"""Who ran what, where and with which code; captured once per invocation. Recorded, never part of a key."""

import getpass
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.redact import redact_values

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "datasets", "mlflow", "sacrebleu", "babel", "hydra-core")


def capture() -> dict[str, Any]:
    """Git state of this project's folder, command line, versions and machine, as plain redacted values."""
    value = {
        "time": instants.now(),
        "user": _user(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).resolve().parent),
    }
    result: dict[str, Any] = redact_values(value)
    return result


def git_state(folder: Path) -> dict[str, Any]:
    """Commit, branch, remote, and whether tracked files were changed; empty outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        "remote": _git(folder, "config", "--get", "remote.origin.url"),
    }


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            encoding="utf-8",  # names of branches, whatever the locale
            errors="replace",
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
