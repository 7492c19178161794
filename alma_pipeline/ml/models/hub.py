"""Find a published model's files in a local mirror or the Hugging Face cache, or download them from the hub.

Takes only the files needed and opens none. A failure is one paragraph that says what to do (B47).
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.auto import tqdm

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.lines import LFS_POINTER

MIRROR = "ALMA_PIPELINE_MIRROR"
"""Environment variable: a folder that holds repositories as OWNER/NAME, for machines without a network and for tests."""
TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
FULL_PATTERNS = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    *TOKENIZER_PATTERNS,
    "README.md",
)
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model.safetensors", "README.md")
EXCLUDED_PATTERNS = ("*/*", "adapter_*", "consolidated*")
"""Never part of a full model: subfolders, a stray adapter (ALMA-13B-R has an adapter_config.json), a vendor's own format."""
LOG_SECONDS = 1.0
"""Least time between two log lines, in seconds."""
RATE = "download/bytes_per_second"
Log = Callable[[int, int, dict[str, float]], None]
"""The signature of `Job.log`: done, total, metrics."""


@dataclass(frozen=True)
class Snapshot:
    """A repository's files, complete for the patterns requested."""

    repo: str
    folder: Path
    commit: str
    """Commit on the hub; empty for a local folder."""


class DownloadLog:
    """Logs the bytes of one download, at most once every `LOG_SECONDS`, from whichever thread receives some."""

    def __init__(self, log: Log) -> None:
        self._log, self._lock = log, threading.Lock()
        self._began = self._logged = time.monotonic()
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """Log `done` of `total` bytes of the files started so far; the bars of a download overlap, so the highest counts."""
        with self._lock:
            now = time.monotonic()
            if done <= self._done or now - self._logged < LOG_SECONDS:
                return
            self._done, self._logged = done, now
            self._log(done, max(done, total), {RATE: done / (now - self._began)})

    def bar(self) -> type[tqdm]:
        """A progress bar class for `huggingface_hub` that forwards its byte counts to this object."""
        report = self

        class Bar(tqdm):  # type: ignore[misc]
            def update(self, n: float | None = 1) -> Any:
                shown = super().update(n)
                if self.unit == "B":  # the library's other bar counts files
                    report(int(self.n), int(self.total or 0))
                return shown

        return Bar


def snapshot(repo: str, revision: str, adapter: bool, log: Log) -> Snapshot:
    """Find or download the files of a full model or an adapter.

    `repo` is OWNER/NAME or an absolute path; `log` receives the bytes downloaded. Raises UserError if the files cannot be had.
    """
    # A mirror or a folder takes precedence, so that no network is needed.
    local = Path(repo) if os.path.isabs(repo) else Path(os.environ.get(MIRROR) or os.devnull) / repo
    if local.is_dir():
        refuse_pointers(local, adapter)
        return Snapshot(repo, local, "")
    if os.path.isabs(repo):
        raise UserError(f"{repo}: no such folder; expected one with config.json and *.safetensors")
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(ADAPTER_PATTERNS if adapter else FULL_PATTERNS),
            ignore_patterns=["*/*"] if adapter else list(EXCLUDED_PATTERNS),
            tqdm_class=DownloadLog(log).bar(),
        )
    except (OSError, ValueError) as error:
        raise UserError(_failure(repo, revision, error)) from error
    return Snapshot(repo, Path(folder), Path(folder).name)


def refuse_pointers(folder: Path, adapter: bool) -> None:
    """Raises UserError for a Git LFS pointer among the files of a full model or an adapter: a clone without its large files."""
    wanted, excluded = (ADAPTER_PATTERNS, ()) if adapter else (FULL_PATTERNS, EXCLUDED_PATTERNS)
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    for name in names:
        if any(fnmatch(name, pattern) for pattern in wanted) and not any(fnmatch(name, pattern) for pattern in excluded):
            with open(folder / name, "rb") as file:
                pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
            if pointer:
                raise UserError(f"{folder / name} is a Git LFS pointer, not the file itself; run `git lfs pull` in {folder}")


def _failure(repo: str, revision: str, error: Exception) -> str:
    page = f"https://huggingface.co/{repo}"
    # The order matters: GatedRepoError is a subclass of RepositoryNotFoundError.
    if isinstance(error, GatedRepoError):
        reason = "is gated, and this account has no access"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"has no such revision (see {page}/commits/main)"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "does not exist, or is private"
    else:
        reason = "is not in the cache and could not be downloaded"
    # Name each place that was searched, and each variable that changes it.
    offline = "is set: unset it to use the network" if constants.HF_HUB_OFFLINE else "is not set"
    token = "is set" if os.environ.get("HF_TOKEN") else "is not set"
    mirror = os.environ.get(MIRROR)
    return (
        f"{repo} at revision {revision} {reason}. Looked in {f'the mirror {mirror} and ' if mirror else ''}the cache "
        f"{constants.HF_HUB_CACHE} (set HF_HOME to use another); HF_HUB_OFFLINE {offline}. For a gated repository, accept "
        f"its licence on {page} and set HF_TOKEN to a token of that account; HF_TOKEN {token}. Without a network, copy its files "
        f"to FOLDER/{repo} and set {MIRROR}=FOLDER. Error from the hub: {' '.join(str(error).split())[:300]}"
    )
