"""Resolves branches of hub data sets to commits once, and keeps the answers in the store's `pins.json`.

A branch moves, but the meaning of a key must not, so keys hold the commit. `pins.json` maps `OWNER/NAME@main` to a commit; an
entry that is removed is resolved again.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.files import write_json
from alma_pipeline.lease import held
from alma_pipeline.plan.node import Node
from alma_pipeline.plan.step import Step
from alma_pipeline.schema import NodeConfig, Source
from alma_pipeline.store.store import Store

FILE = "pins.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(nodes: list[Node], store: Store) -> list[Node]:
    """The nodes with commits in place of branches, as far as they are resolved."""
    known = _known(store.root / FILE)
    return [dataclasses.replace(node, config=_pinned(node.config, known)) for node in nodes] if known else nodes


def resolve_branches(steps: list[Step], store: Store) -> bool:
    """Resolve the branches that these steps will read; False if there are none.

    Raises UserError if the hub cannot be asked; then nothing is written.
    """
    wanted = {_mark(source): source for step in steps if step.verdict != "adopt" for _, source in _moving(step.node.config)}
    if not wanted:
        return False
    store.check_writable()
    found = {mark: _commit(source.repo or "", source.revision or "main") for mark, source in wanted.items()}
    store.root.mkdir(parents=True, exist_ok=True)
    with held(store.root / f"{FILE}.lock"):
        # Another run may have resolved them meanwhile; its answers are in keys already and take precedence.
        write_json(store.root / FILE, found | _known(store.root / FILE))
    return True


def _moving(node: NodeConfig) -> Iterator[tuple[str, Source]]:
    """(field, source) of each hub data set that a node reads at a revision that can move."""
    for name, text in node.text_inputs().items():
        if text.source.reader == "hub" and not COMMIT.fullmatch(text.source.revision or ""):
            yield name, text.source


def _pinned(node: NodeConfig, known: dict[str, str]) -> NodeConfig:
    changes: dict[str, Any] = {
        name: dataclasses.replace(source, revision=known[_mark(source)])
        for name, source in _moving(node)
        if _mark(source) in known
    }
    return dataclasses.replace(node, **changes) if changes else node


def _mark(source: Source) -> str:
    return f"{source.repo}@{source.revision or 'main'}"


def _known(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); correct it, or remove it to resolve all branches again") from error
    return known


def _commit(repo: str, revision: str) -> str:
    from huggingface_hub import HfApi, constants

    try:
        found = HfApi().dataset_info(repo, revision=revision, timeout=10).sha
        if found and COMMIT.fullmatch(found):
            return found
        reason = f"it answered {found!r}"
    except Exception as error:  # the client passes on errors of its HTTP library, which are not one class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise UserError(
        f"could not resolve {revision} of the data set {repo} to a commit on the Hugging Face hub: {reason}. A key needs the "
        "commit, since a branch moves. Check the connection and HF_HUB_OFFLINE (now "
        f"{'set' if constants.HF_HUB_OFFLINE else 'not set'}); for a gated or private data set, accept its licence at "
        f"https://huggingface.co/datasets/{repo} and set HF_TOKEN. If you know the commit, set it as the revision, as in "
        "data.parallel.revision=COMMIT; without a network, read a copy with data.root=FOLDER"
    )
