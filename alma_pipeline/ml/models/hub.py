"""Files of a published model as a local folder: from a mirror, or from the Hugging Face hub and its cache.

Fetches what is asked for and nothing else; opens no file. A failure is one paragraph that says what to do (B47).
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.auto import tqdm

from alma_pipeline.errors import UserError

MIRROR = "ALMA_PIPELINE_MIRROR"
"""Names a folder that holds repositories as OWNER/NAME: for machines without a network, and for tests."""
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*")
FULL = ("config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER, "README.md")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "README.md")
OTHER_WEIGHTS = ("*/*", "adapter_*", "consolidated*")
"""Never part of a full model: subfolders, a stray adapter (ALMA-13B-R has one's settings), a vendor's own format."""
EVERY = 1.0
"""Seconds between two lines."""
RATE = "download/bytes_per_second"
Log = Callable[[int, int, dict[str, float]], None]
"""`Job.log`."""


class Download:
    """How many bytes are here, told at most once in `EVERY` seconds by whichever thread brings some."""

    def __init__(self, log: Log) -> None:
        self._log, self._lock = log, threading.Lock()
        self._began = self._told = time.monotonic()
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """`total`: bytes of the files begun so far. Bars of one download overlap, so the furthest counts."""
        with self._lock:
            now = time.monotonic()
            if done <= self._done or now - self._told < EVERY:
                return
            self._done, self._told = done, now
            self._log(done, max(done, total), {RATE: done / (now - self._began)})

    def bar(self) -> type[tqdm]:
        """A progress bar for `huggingface_hub`, which tells this download what it is told."""
        report = self

        class Bar(tqdm):  # type: ignore[misc]
            def update(self, n: float | None = 1) -> Any:
                shown = super().update(n)
                if self.unit == "B":  # its other bar counts files
                    report(int(self.n), int(self.total or 0))
                return shown

        return Bar


@dataclass(frozen=True)
class Snapshot:
    """A repository's files, complete as far as they were asked for."""

    repo: str
    folder: Path
    commit: str
    """On the hub; empty for a local folder."""


def snapshot(repo: str, revision: str, adapter: bool, log: Log) -> Snapshot:
    """The files of a full model, or of an adapter. `repo` may be an absolute path; `log` hears of bytes. Raises UserError."""
    local = Path(repo) if os.path.isabs(repo) else Path(os.environ.get(MIRROR) or os.devnull) / repo
    if local.is_dir():
        return Snapshot(repo, local, "")
    if os.path.isabs(repo):
        raise UserError(f"{repo}: no such folder; expected one with a model's safetensors and config.json")
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(ADAPTER if adapter else FULL),
            ignore_patterns=["*/*"] if adapter else list(OTHER_WEIGHTS),
            tqdm_class=Download(log).bar(),
        )
    except (OSError, ValueError) as error:
        raise UserError(_paragraph(repo, revision, error)) from error
    return Snapshot(repo, Path(folder), Path(folder).name)


def _paragraph(repo: str, revision: str, error: Exception) -> str:
    page = f"https://huggingface.co/{repo}"
    if isinstance(error, GatedRepoError):
        reason = "is gated, and this account has not been let in"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"has no such revision (there are those of {page}/commits/main)"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "does not exist, or is private"
    else:
        reason = "is not in the cache and could not be fetched"
    offline = "is set: unset it to use the network" if constants.HF_HUB_OFFLINE else "is not set"
    token = "is set" if os.environ.get("HF_TOKEN") else "is not set"
    mirror = os.environ.get(MIRROR)
    return (
        f"{repo} at revision {revision} {reason}. Looked in {f'the mirror {mirror} and ' if mirror else ''}the cache "
        f"{constants.HF_HUB_CACHE} (HF_HOME names another); HF_HUB_OFFLINE {offline}. For a gated repository accept the licence "
        f"on {page} and put a token of that account into HF_TOKEN, which {token}. Without a network, copy its files to "
        f"FOLDER/{repo} and set {MIRROR}=FOLDER. The hub says: {' '.join(str(error).split())[:300]}"
    )
