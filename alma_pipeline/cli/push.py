"""An exported folder to the Hugging Face hub. The token is HF_TOKEN's or that of `hf auth login`; it goes nowhere else."""

from pathlib import Path

from alma_pipeline.errors import UserError
from alma_pipeline.redact import MASK, redact


def check(repo: str) -> None:
    """Raises UserError for what would fail at the end, after all the work: a wrong name, no token, no network wanted."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UserError(f"--push {repo}: expected OWNER/NAME of a repository on the hub")
    from huggingface_hub import constants, get_token

    if not get_token():
        raise UserError(
            f"--push {repo} needs a token with write access, found none; set HF_TOKEN, or log in with `hf auth login`"
        )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"--push {repo} needs the network, which HF_HUB_OFFLINE forbids; unset it, or leave --push out")


def folder(path: Path, repo: str) -> str:
    """Upload all of it as one commit; the page's address. A repository that is new is made private. Raises UserError."""
    from huggingface_hub import HfApi, get_token

    api, token = HfApi(), get_token() or ""
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=path, commit_message="Add the checkpoint and its card")
    except Exception as error:  # the client lets errors of whichever HTTP library it uses come through
        told = " ".join(str(error).split())
        reason = redact(told.replace(token, MASK) if token else told)[:400]  # a token of `hf auth login` is in no variable
        raise UserError(
            f"{repo} could not be written to ({reason}); the export itself is whole in {path}: see that the token "
            f"may write to it, and upload it with `hf upload {repo} {path}`"
        ) from error
    return str(done)
