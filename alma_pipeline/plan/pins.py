"""Which commit a branch of a hub data set is: asked at first use, kept in the store, and part of every key from then on.

A branch moves, and what a key means must not move with it. `pins.json` maps `OWNER/NAME@main` to a commit; a line taken out of
it is asked for again.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.files import lock_file, write_json
from alma_pipeline.plan.node import Node
from alma_pipeline.plan.step import Step
from alma_pipeline.schema import NodeConfig, Source
from alma_pipeline.store.store import Store

FILE = "pins.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(nodes: list[Node], store: Store) -> list[Node]:
    """The nodes with known commits in place of branches; a branch that nobody asked for yet stays one."""
    known = _known(store.root / FILE)
    return [dataclasses.replace(node, config=_pinned(node.config, known)) for node in nodes] if known else nodes


def resolve_branches(steps: list[Step], store: Store) -> bool:
    """Ask the hub for the branches that these steps are going to read; whether there were any.

    Raises UserError where the hub cannot say, and then keeps nothing.
    """
    wanted = {_mark(source): source for step in steps if step.verdict != "adopt" for _, source in _moving(step.node.config)}
    if not wanted:
        return False
    store.check_writable()
    found = {mark: _commit(source.repo or "", source.revision or "main") for mark, source in wanted.items()}
    store.root.mkdir(parents=True, exist_ok=True)
    with lock_file(store.root / f"{FILE}.lock"):
        # Another run may have asked in the meantime: its answer is in keys already.
        write_json(store.root / FILE, found | _known(store.root / FILE))
    return True


def _moving(node: NodeConfig) -> Iterator[tuple[str, Source]]:
    """The hub sets that a node reads at a name that may move, each with its field."""
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
        raise UserError(f"{path} is damaged ({error}); correct it, or remove it and branches are asked for again") from error
    return known


def _commit(repo: str, revision: str) -> str:
    from huggingface_hub import HfApi, constants

    try:
        found = HfApi().dataset_info(repo, revision=revision, timeout=10).sha
        if found and COMMIT.fullmatch(found):
            return found
        reason = f"it answered {found!r}"
    except Exception as error:  # the client lets errors of whichever HTTP library it uses come through
        reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise UserError(
        f"which commit the data set {repo} has at {revision} could not be asked of the Hugging Face hub: {reason}. A key needs "
        "the commit, for a branch moves. Check the connection and HF_HUB_OFFLINE, which is "
        f"{'set' if constants.HF_HUB_OFFLINE else 'not set'}; a gated or private set needs its licence accepted at "
        f"https://huggingface.co/datasets/{repo} and a token of that account in HF_TOKEN. Where the commit is known, give it as "
        "revision, as in data.parallel.revision=COMMIT; without a network, read a copy with data.root=FOLDER"
    )
