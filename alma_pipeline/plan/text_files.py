"""Finds the local files of text sources and names them by content. Reads bytes, never text.

A node's settings hold what its files contain and their digests; the paths travel beside the settings, so that the same text in
another folder is the same data.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from alma_pipeline.errors import ConfigError
from alma_pipeline.files import DigestCache
from alma_pipeline.plan.file_patterns import Match, find_files
from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Config, Neural, NodeConfig, Source, WithScorers, WithSystems

PLAIN_FOR_ALL = re.compile(r"all(\.\d+)?\.txt")
"""A file of plain lines that was found under the same name for every direction."""
SPLITS = {"train": ("train",), "test": ("test", "devtest", "valid", "validation", "dev")}
"""Names of a split in copies of data sets, in order of preference. ALMA's folders have `valid`, and some have no `test`."""
COPIES = (
    "{lang}en/{split}.{lang}-en.json*",  # ALMA's folders
    "{direction}/{split}*",  # a hub repository's configurations: one per direction, or one per pair under either name
    "{direction}/{direction}-{split}*",
    "{lang}-en/{split}*",
    "{lang}-en/{lang}-en-{split}*",
)
DOCUMENTS = ("{lang}_meta/*.jsonl*", "{lang}/{split}*", "{lang}.jsonl*", "{lang}.txt*")
"""OSCAR-2301's folders, one configuration per language, or one file per language."""
WHOLE = ("data/{split}-*", "{split}*")
"""One table for all directions."""


def with_files(nodes: list[Node], config: Config, digests: DigestCache) -> list[Node]:
    """The nodes with digests and paths of their local text, and with the language codes that its rows may name.

    Raises ConfigError with all missing files of all nodes.
    """
    result, problems = [], []
    for node in nodes:
        try:
            settled, files = located(node.config, node.setting, config, digests)
            result.append(dataclasses.replace(node, config=settled, files=files, codes=list(config.languages)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return result


def located(node: NodeConfig, setting: str, config: Config, digests: DigestCache) -> tuple[NodeConfig, dict[str, str]]:
    """The node with digests in place of paths, and the path of each digest. Raises ConfigError for missing files."""
    places: dict[str, str] = {}
    changes: dict[str, Any] = {}
    problems: list[str] = []
    # Every source of text that the node reads from disk.
    for name, text in node.text_inputs().items():
        try:
            found = _found(text.source, text.parts, f"{setting}.{name}", config)
        except ConfigError as error:
            problems += error.problems
            continue
        if found is not None:
            named = {file: digests.of(path) for file, path in found.items()}
            places |= {named[file]: str(path) for file, path in found.items()}
            # Content alone is the identity: a moved or renamed copy of a hub data set stays the same data.
            changes[name] = dataclasses.replace(
                text.source, reader="files", repo=None, revision=None, config=None, path=None, files=named
            )
    # Scorers and other systems' outputs may be local files too.
    if isinstance(node, WithScorers):
        changes["scorers"] = {name: _scorer(scorer, places) for name, scorer in node.scorers.items()}
    try:
        if isinstance(node, WithSystems):
            changes["system_outputs"] = _system_outputs(node.system_outputs, node.chosen_directions(), setting, digests, places)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return (dataclasses.replace(node, **changes), places) if changes else (node, places)


def _scorer(scorer: Neural, places: dict[str, str]) -> Neural:
    """A local checkpoint by its digest, which is its revision; other scorers unchanged. Adds to `places`."""
    if not scorer.model.endswith(".ckpt"):
        return scorer
    places[scorer.revision] = scorer.model
    return dataclasses.replace(scorer, model=f"{scorer.revision}.ckpt")


def _system_outputs(
    outputs: dict[str, Source], directions: list[str], setting: str, digests: DigestCache, places: dict[str, str]
) -> dict[str, Source]:
    """Other systems' outputs by content; a system may lack directions. Adds to `places`. Raises ConfigError."""
    result = {}
    for system, source in outputs.items():
        key, pattern = f"{setting}.outputs.{system}", source.path or ""
        if any(name in pattern for name in ("{side}", "{lang}", "{pair}")):
            raise ConfigError(
                [f"{key}={pattern}: expected {{direction}} in the path, or one file whose rows have a column 'direction'"]
            )
        # A file without an extension counts as plain lines, which need a direction in the name.
        found = find_files([pattern], directions, ("",), Path(), "txt")
        if not found.files:
            raise ConfigError([_missing_text(f"{key}={pattern}", found, directions)])
        if len(directions) > 1 and any(PLAIN_FOR_ALL.match(name) for name in found.files):
            raise ConfigError(
                [
                    f"{key}={pattern}: plain lines do not show which of {', '.join(directions)} they belong to; "
                    "expected {direction} in the path, rows with a column 'direction', or a single direction"
                ]
            )
        named = {name: digests.of(path) for name, path in found.files.items()}
        places |= {named[name]: str(path) for name, path in found.files.items()}
        result[system] = dataclasses.replace(source, path=None, files=named)
    return result


def _found(source: Source, parts: list[str], key: str, config: Config) -> dict[str, Path] | None:
    """The local files of a source by what they contain; None if it is not read from disk. Raises ConfigError."""
    if source.reader == "files":
        if not source.path:
            raise ConfigError(
                [f"{key}.path is empty, but reader=files needs it, as in data/{{lang}}-en.tsv or data/train.{{lang}}-en.{{side}}"]
            )
        found = find_files([source.path], parts, ("",), Path())
        if found.missing:
            raise ConfigError([_missing_text(f"{key}.path={source.path}", found, parts)])
        return found.files
    if source.path:
        raise ConfigError([f"{key}.path={source.path}: reader={source.reader} does not read it; set reader=files"])
    if source.reader != "hub" or not config.data.root:
        return None
    return _copy(source, parts, key, Path(config.data.root).expanduser())


def _copy(source: Source, parts: list[str], key: str, root: Path) -> dict[str, Path] | None:
    """A copy of a hub data set under `data.root`: a folder of its name, or ALMA's folders directly below; None if there is none.

    Raises ConfigError if there is one that lacks parts.
    """
    if not root.is_dir():
        raise ConfigError([f"data.root={root}: no such folder"])
    # A folder named like the repository counts as its copy, with or without the owner.
    repo = source.repo or ""
    folders = [root / repo, root / repo.rpartition("/")[2]]
    pairs = all("-" in part for part in parts)
    own = [folder for folder in folders if repo and folder.is_dir()]
    if not own and not (pairs and _is_alma(repo)):
        return None
    # The first folder with anything in it must have everything; a folder of the set's name must not be empty.
    patterns = [*COPIES, *WHOLE] if pairs else list(DOCUMENTS)
    for folder in own or [root, root / "human_written_data"]:
        found = find_files(patterns, parts, SPLITS.get(source.split, (source.split,)), folder)
        if found.files and not found.missing:
            return found.files
        if found.files:
            raise ConfigError([_missing_text(f"data.root={root}: {key}", found, parts)])
    if own:
        raise ConfigError([_missing_text(f"data.root={root}: {key} ({own[0]})", found, parts)])
    return None


def _is_alma(repo: str) -> bool:
    """Whether ALMA's own folders hold the data set: the human-written pairs, whose `valid` or `test` files are test sets too."""
    return repo in ("haoranxu/ALMA-Human-Parallel", "haoranxu/WMT22-Test", "haoranxu/WMT23-Test")


def _missing_text(what: str, found: Match, parts: list[str]) -> str:
    present = [part for part in parts if part not in found.missing]
    tried = f"; looked for {', '.join(found.looked[:4])}" if found.looked else ""
    pairs = bool(present) and "-" in present[0]
    choice = f". Use the directions that have text (directions={','.join(present)}), or add the files" if pairs else ""
    return f"{what} has no text for {', '.join(found.missing)}{tried}{choice}"
