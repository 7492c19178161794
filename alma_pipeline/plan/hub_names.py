"""Checks that what the settings call a repository of the Hugging Face hub is not a folder.

A folder has no revision: a key would hold its path, not its content, and another model put there would pass for the first.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Config, WithScorers

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
"""OWNER/NAME, or the name alone of the hub's oldest repositories."""
USES = ("mono", "parallel", "pseudo", "test", "preferences")
"""The sources of `data`."""


def problems(nodes: list[Node], config: Config) -> Iterator[str]:
    """A problem for each folder that is named in place of a hub repository: of models, text or scorers.

    Local text that `data.root` holds is identified by content already, and is no longer a hub source of these nodes.
    """
    for node in nodes:
        settings: Any = node.config
        if node.kind == "base" and settings.source == "hub" and is_folder(settings.repo):
            key = "model.repo" if settings.repo == config.model.repo else f"{node.setting}.repo"
            yield _as_checkpoint(key, settings.repo, node.name, f"model={config.model.name}")
        for field, text in node.config.text_inputs().items():
            if text.source.reader == "hub" and is_folder(text.source.repo):
                yield _as_text(_data_key(text.source.repo, f"{node.setting}.{field}", config), text.source.repo)
        for name, scorer in settings.scorers.items() if isinstance(settings, WithScorers) else ():
            if not scorer.model.endswith(".ckpt") and is_folder(scorer.model):
                yield (
                    f"scorers.{name}.model={scorer.model}: expected OWNER/NAME on the hub, found a path; name the .ckpt file "
                    "in it, which is identified by its content"
                )
    for name, entry in config.model.released.items():
        if is_folder(entry.repo):
            yield _as_checkpoint(f"model.released.{name}.repo", entry.repo, name, f"model={config.model.name}")


def is_folder(repo: str | None) -> bool:
    """Whether the text is a path or names a folder here, and cannot be meant as a repository."""
    return bool(repo) and (not NAME.fullmatch(repo or "") or ("/" not in str(repo) and Path(str(repo)).is_dir()))


def _as_checkpoint(key: str, folder: str, node: str, model: str) -> str:
    # The shell expands a home folder only without quotes.
    home = "~/" if folder.startswith("~/") else ""
    command = f"alma-pipeline adopt {node} {home}{shlex.quote(folder.removeprefix(home))} {model}"
    return (
        f"{key}={folder}: expected OWNER/NAME on the hub, found a path. A folder is identified by its content: leave "
        f"{key} as it was, and run `{command}`, which makes the folder the output of {node}"
    )


def _as_text(key: str, folder: str | None) -> str:
    return (
        f"{key}.repo={folder}: expected OWNER/NAME on the hub, found a path. For files of your own set {key}.reader=files and "
        f"{key}.path; copies of hub data sets are read with data.root=FOLDER"
    )


def _data_key(repo: str | None, own: str, config: Config) -> str:
    """The setting from which a node's source comes: `data.parallel`, or the node's own."""
    return next((f"data.{use}" for use in USES if getattr(config.data, use).repo == repo), own)
