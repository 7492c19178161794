"""`export`: writes a checkpoint as a plain Hugging Face folder with a model card, merged or as an adapter, and uploads it."""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from alma_pipeline import output_file
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.execution import one_off
from alma_pipeline.execution.runner import job_input
from alma_pipeline.model_card import card
from alma_pipeline.model_card.training import published_as
from alma_pipeline.paths import store_root
from alma_pipeline.redact import MASK, redact
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def main(arguments: Arguments) -> int:
    """Export an artifact to a folder. Raises UserError if it is not a checkpoint, or if the folder is not empty."""
    store, console = Store(store_root()), LiteralConsole()
    record, folder = find_artifact(store, arguments.artifact), Path(arguments.folder)
    if not record.checkpoint:
        raise UserError(f"{record.path.name} is of kind {record.kind}, which has no model; export a checkpoint")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; export overwrites nothing, so name a new one")
    output_file.check_beside(folder, "name another FOLDER")
    # Whatever would fail at the upload fails now, before the merge.
    repo = arguments.push
    if repo:
        _check_push(repo)
    as_adapter = arguments.adapter
    # Written beside the target and renamed at the end, so that a failed export leaves nothing behind.
    unfinished = folder.with_name(f"{folder.name}.unfinished-{secrets.token_hex(4)}")
    try:
        measured = _adapter(store, record, unfinished) if as_adapter else _merged(store, record, arguments.precision, unfinished)
        text = card.render_card(store, record, measured, as_adapter, repo or folder.absolute().name)
        (unfinished / "README.md").write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    console.print_line(f"{record.path.name} → {folder.absolute()}{_differences(measured)}")
    if repo:
        console.print_line(f"pushed to {_push(folder, repo)}")
    return 0


def _merged(store: Store, record: Record, precision: str | None, folder: Path) -> dict[str, Any]:
    """Write the merged model to `folder`; returns how much its logits differ from those of base and adapters."""
    precision = precision or _precision(store, record)
    job: Any = kind_config("merge")
    config = job(precision=precision)
    inputs = {"checkpoint": job_input(store, record)}
    with (
        one_off.scratch_root(store.root, folder.with_name(f"{folder.name}.work")) as root,
        one_off.run_one_off(root, config, Hardware(name="export"), inputs, lambda work: None, lambda lines: None) as done,
    ):
        out, result = done
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(out, folder)
        measured: dict[str, Any] = {"precision": precision} | result["merge"]
        return measured


def _precision(store: Store, record: Record) -> str:
    """The precision of the full model below the checkpoint."""
    settings = json.loads((_base(store, record).path / "config.json").read_text(encoding="utf-8"))
    return PRECISIONS.get(settings.get("dtype") or settings.get("torch_dtype") or "", "fp32")


def _base(store: Store, record: Record) -> Record:
    found = store.find(record.checkpoint["base_key"])
    if found is None:
        raise UserError(
            f"the base of {record.path.name}, artifact {record.checkpoint['base_key'][:12]}, is no longer in the store"
        )
    return found


def _adapter(store: Store, record: Record, folder: Path) -> dict[str, Any]:
    """Write the adapter alone; its settings name the published model that it was trained on."""
    if record.checkpoint["form"] != "adapter":
        raise UserError(f"{record.path.name} is a full model; remove --adapter")
    if len(record.checkpoint["adapter_keys"]) > 1:
        raise UserError(
            f"{record.path.name} was trained on a base with other adapters merged; export it merged, without --adapter"
        )
    base = _base(store, record)
    folder.mkdir(parents=True)
    for path in record.path.iterdir():
        if path.name in ADAPTER_FILES or "token" in path.name or path.name == "special_tokens_map.json":
            shutil.copyfile(path, folder / path.name)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = published_as(base) or base.path.name
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return {}


def _differences(measured: dict[str, Any]) -> str:
    if not measured.get("adapters"):
        return ""
    return (
        f" ({measured['adapters']} adapters merged in fp32, largest logit difference {measured['difference']:.2g} "
        f"of at most {measured['tolerance']:.2g}; {measured['precision']} adds {measured['cast_difference']:.2g})"
    )


def _check_push(repo: str) -> None:
    """Raises UserError for what would fail only after all the work: a wrong name, no token, no network."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UserError(f"--push {repo}: expected OWNER/NAME of a repository on the hub")
    from huggingface_hub import constants, get_token

    if not get_token():
        raise UserError(
            f"--push {repo} needs a token with write access, found none; set HF_TOKEN, or log in with `hf auth login`"
        )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"--push {repo} needs the network, but HF_HUB_OFFLINE is set; unset it, or remove --push")


def _push(path: Path, repo: str) -> str:
    """Upload the folder as one commit and return the page's address. A new repository is private. Raises UserError."""
    from huggingface_hub import HfApi, get_token

    api, token = HfApi(), get_token() or ""
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=path, commit_message="Add the checkpoint and its card")
    except Exception as error:  # the client raises errors of its HTTP library too
        # Redact by value too: a token of `hf auth login` is in no environment variable.
        message = " ".join(str(error).split())
        reason = redact(message.replace(token, MASK) if token else message)[:400]
        raise UserError(
            f"{repo} could not be written to ({reason}); the export itself is complete in {path}: check that the token "
            f"has write access, then upload it with `hf upload {repo} {path}`"
        ) from error
    return str(done)
