"""An exported folder to the Hugging Face hub. The token comes from the environment and goes nowhere else."""

import os
from pathlib import Path

from alma_pipeline.errors import UserError
from alma_pipeline.redact import redact

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def check(repo: str) -> None:
    """Raises UserError for what would fail at the end, after all the work: a wrong name, no token, no network wanted."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UserError(f"--push {repo}: expected OWNER/NAME of a repository on the hub")
    if not _token():
        raise UserError(f"--push {repo} needs a token with write access in the variable {TOKENS[0]}, found none")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(f"--push {repo} needs the network, which HF_HUB_OFFLINE forbids; unset it, or leave --push out")


def _token() -> str:
    return next((value for name in TOKENS if (value := os.environ.get(name, "").strip())), "")


def folder(path: Path, repo: str) -> str:
    """Upload all of it as one commit; the page's address. A repository that is new is made private. Raises UserError."""
    from huggingface_hub import HfApi

    api = HfApi(token=_token())
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=path, commit_message="Add the checkpoint and its card")
    except Exception as error:  # the client lets errors of whichever HTTP library it uses come through
        reason = redact(" ".join(str(error).split()))[:400]
        raise UserError(
            f"{repo} could not be written to ({reason}); the export itself is whole in {path}: see that the token in "
            f"{TOKENS[0]} may write to it, and upload it with `hf upload {repo} {path}`"
        ) from error
    return str(done)
