"""Files of a published model as a local folder: from a mirror, or from the Hugging Face hub and its cache.

Fetches what is asked for and nothing else; opens no file. A failure is one paragraph that says what to do (B47).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from alma_pipeline.errors import UserError
from alma_pipeline.ml.models.downloads import Download, Log

MIRROR = "ALMA_PIPELINE_MIRROR"
"""Names a folder that holds repositories as OWNER/NAME: for machines without a network, and for tests."""
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*")
FULL = ("config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER, "README.md")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "README.md")
OTHER_WEIGHTS = ("*/*", "adapter_*", "consolidated*")
"""Never part of a full model: subfolders, a stray adapter (ALMA-13B-R has one's settings), a vendor's own format."""


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
