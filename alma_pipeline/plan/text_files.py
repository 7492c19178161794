"""Finds the local files of text sources and names them by content. Reads bytes, never text.

A node's settings hold what its files contain and their digests; the paths travel beside the settings, so that the same text in
another folder is the same data.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline.errors import ConfigError
from alma_pipeline.files import DigestCache, last_digests
from alma_pipeline.plan.file_patterns import Match, Places, find_files
from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Config, Neural, NodeConfig, Source, TextInput, WithScorers, WithSystems

PLAIN_FOR_ALL = re.compile(r"all(\.\d+)?\.txt")
"""A file of plain lines that was found under the same name for every direction."""
SPLITS = {"train": ("train",), "test": ("test", "devtest", "valid", "validation", "dev")}
"""Names of a split in copies of data sets, in order of preference. ALMA's folders have `valid`, and some have no `test`."""
COPIES = (
    "{lang}en/{split}.{from_english}.json*",  # ALMA's folders: a set that was made for the direction out of English
    "{lang}en/{split}.{lang}-en.json*",  # ALMA's folders: both directions
    "{direction}/{split}*",  # a hub repository's configurations: one per direction, or one per pair under either name
    "{direction}/{direction}-{split}*",
    "{lang}-en/{split}*",
    "{lang}-en/{lang}-en-{split}*",
)
DOCUMENTS = ("{lang}_meta/*.jsonl*", "{lang}/{split}*", "{lang}.jsonl*", "{lang}.txt*")
"""OSCAR-2301's folders, one configuration per language, or one file per language."""
SHARD = re.compile(r"(?P<start>.*-)(?P<number>\d+)-of-(?P<count>\d+)(?P<end>.*)")
"""One of the files into which the hub cuts a set."""
WHOLE = ("data/{split}-*", "{split}*")
"""One table for all directions."""


@dataclass(frozen=True)
class Texts:
    """The local text of one node, as far as it has been found."""

    digests: DigestCache
    earlier: Mapping[Path, str]
    """The last known digest of every file that an earlier plan of the store found."""
    places: dict[str, str] = field(default_factory=dict)
    """Digest to path."""
    gone: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def named(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The digests of these files by what they contain. Adds to `places`, and to `gone` files that are there no more."""
        gone = [path for path in files.values() if not path.exists()]
        if gone:
            self.gone.extend(map(str, gone))
            more = len(gone) - 1
            others = f" and {more} more file{'s' if more > 1 else ''} are" if more else " is"
            self.notes.append(f"{gone[0]}{others} gone; what was made of the text is known by its last SHA-256")
        found = {name: self.earlier[path] if path in gone else self.digests.of(path) for name, path in files.items()}
        self.places.update((found[name], str(path)) for name, path in files.items())
        return _without_repeats(found)


def with_files(nodes: list[Node], config: Config, digests: DigestCache) -> list[Node]:
    """The nodes with digests and paths of their local text, and with the language codes that its rows may name.

    Raises ConfigError with all missing files of all nodes.
    """
    result, problems = [], []
    earlier = last_digests(digests.cache)
    for node in nodes:
        texts = Texts(digests, earlier)
        try:
            settled = located(node.config, node.setting, config, texts)
            result.append(
                dataclasses.replace(
                    node,
                    config=settled,
                    files=texts.places,
                    gone=texts.gone,
                    notes=texts.notes,
                    codes=list(config.languages),
                )
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return result


def located(node: NodeConfig, setting: str, config: Config, texts: Texts) -> NodeConfig:
    """The node with digests in place of paths. Adds to `texts`. Raises ConfigError for missing files."""
    changes: dict[str, Any] = {}
    problems: list[str] = []
    # Every source of text that the node reads from disk.
    for name, text in node.text_inputs().items():
        try:
            found = _found(text, f"{setting}.{name}", config, list(texts.earlier))
        except ConfigError as error:
            problems += error.problems
            continue
        if found is not None:
            # Content alone is the identity: a moved or renamed copy of a hub data set stays the same data.
            named = texts.named(found.files)
            changes[name] = dataclasses.replace(
                text.source, reader="files", repo=None, revision=None, config=None, path=None, files=named
            )
            texts.notes.extend(_reversal(f"{setting}.{name}", found))
    # Scorers and other systems' outputs may be local files too.
    if isinstance(node, WithScorers):
        changes["scorers"] = {name: _scorer(scorer, texts.places) for name, scorer in node.scorers.items()}
    try:
        if isinstance(node, WithSystems):
            changes["system_outputs"] = _system_outputs(node.system_outputs, node.chosen_directions(), setting, texts)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(node, **changes) if changes else node


def _without_repeats(named: dict[str, str]) -> dict[str, str]:
    """The names with one for a text that serves both directions of a pair: `de.json`, or `de-en/de.txt` in alphabetical order.

    A direction keeps a name of its own where its text is another one.
    """
    held: dict[str, dict[str, str]] = {}
    for name, digest in named.items():
        holds = re.split(r"[./]", name)[0]
        held.setdefault(holds, {})[name.removeprefix(holds)] = digest
    for direction in [holds for holds in held if "-" in holds]:
        pair = "-".join(sorted(direction.split("-")))
        opposite, own = "-".join(reversed(direction.split("-"))), held[direction]
        if direction.startswith("en-") and own == held.get(direction[3:]):
            del held[direction]
        elif direction != pair and all(rest.startswith("/") for rest in own) and held.get(opposite, own) == own:
            del held[direction]
            held[pair] = own
    return {holds + rest: digest for holds, own in held.items() for rest, digest in own.items()}


def _reversal(key: str, found: Match) -> Iterator[str]:
    if found.reversed:
        yield f"{key}: no text of its own for {', '.join(found.reversed)}; the text of the opposite direction is used, reversed"


def _scorer(scorer: Neural, places: dict[str, str]) -> Neural:
    """A local checkpoint by its digest, which is its revision; other scorers unchanged. Adds to `places`."""
    if not scorer.model.endswith(".ckpt"):
        return scorer
    places[scorer.revision] = scorer.model
    return dataclasses.replace(scorer, model=f"{scorer.revision}.ckpt")


def _system_outputs(outputs: dict[str, Source], directions: list[str], setting: str, texts: Texts) -> dict[str, Source]:
    """Other systems' outputs by content; a system may lack directions. Adds to `texts`. Raises ConfigError."""
    result = {}
    for system, source in outputs.items():
        key, pattern = f"{setting}.outputs.{system}", source.path or ""
        if any(name in pattern for name in ("{side}", "{lang}", "{pair}")):
            raise ConfigError(
                [f"{key}={pattern}: expected {{direction}} in the path, or one file whose rows have a column 'direction'"]
            )
        # A file without an extension counts as plain lines, which need a direction in the name.
        found = find_files([pattern], directions, ("",), Places(Path(), list(texts.earlier)), "txt")
        if not found.files:
            raise ConfigError([_missing_text(f"{key}={pattern}", found, directions)])
        if len(directions) > 1 and any(PLAIN_FOR_ALL.match(name) for name in found.files):
            raise ConfigError(
                [
                    f"{key}={pattern}: plain lines do not show which of {', '.join(directions)} they belong to; "
                    "expected {direction} in the path, rows with a column 'direction', or a single direction"
                ]
            )
        result[system] = dataclasses.replace(source, path=None, files=texts.named(found.files))
    return result


def _found(text: TextInput, key: str, config: Config, earlier: Sequence[Path]) -> Match | None:
    """The local files of a source by what they contain; None if it is not read from disk. Raises ConfigError."""
    source, parts = text.source, text.parts
    if source.reader == "files":
        if not source.path:
            raise ConfigError(
                [f"{key}.path is empty, but reader=files needs it, as in data/{{lang}}-en.tsv or data/train.{{lang}}-en.{{side}}"]
            )
        documents = not any("-" in part for part in parts)
        if "{side}" in source.path and (documents or not text.reversible):
            expected = "{lang} in the path, as in web/{lang}/*.jsonl" if documents else "{direction} in the path, or one file"
            raise ConfigError([f"{key}.path={source.path}: {{side}} is for sentence pairs in two files; expected {expected}"])
        found = find_files([source.path], parts, ("",), Places(Path(), earlier), reversible=text.reversible)
        if found.missing:
            raise ConfigError([_missing_text(f"{key}.path={source.path}", found, parts)])
        # Documents do not name their language: one text would be read as each of them.
        if documents and len(parts) > 1 and any(name.startswith("all.") for name in found.files):
            raise ConfigError(
                [f"{key}.path={source.path}: the same text would be read as {', '.join(parts)}; expected {{lang}} in the path"]
            )
        return found
    if source.path:
        raise ConfigError([f"{key}.path={source.path}: reader={source.reader} does not read it; set reader=files"])
    if source.reader != "hub" or not config.data.root:
        return None
    return _copy(text, key, Path(config.data.root).expanduser().absolute(), earlier)


def _copy(text: TextInput, key: str, root: Path, earlier: Sequence[Path]) -> Match | None:
    """A copy of a hub data set under `data.root`: a folder of its name, or ALMA's folders directly below; None if there is none.

    Raises ConfigError if there is one that lacks parts.
    """
    source, parts = text.source, text.parts
    if not _is_folder(root, earlier):
        raise ConfigError([f"data.root={root}: no such folder"])
    # A folder named like the repository counts as its copy, with or without the owner.
    repo = source.repo or ""
    folders = [root / repo, root / repo.rpartition("/")[2]]
    pairs = all("-" in part for part in parts)
    own = [folder for folder in folders if repo and _is_folder(folder, earlier)]
    if not own and not (pairs and _is_alma(repo)):
        return None
    # The first folder with anything in it must have everything; a folder of the set's name must not be empty.
    patterns = [*COPIES, *WHOLE] if pairs else list(DOCUMENTS)
    for folder in own or [root, root / "human_written_data"]:
        splits = SPLITS.get(source.split, (source.split,))
        found = find_files(patterns, parts, splits, Places(folder, earlier), reversible=text.reversible)
        if problems := list(_incomplete(f"data.root={root}: {key}", found)):
            raise ConfigError(problems)
        if found.files and not found.missing:
            return _with_reversed_tests(found, parts) if source.split != "train" and text.reversible else found
        if found.files:
            raise ConfigError([_missing_text(f"data.root={root}: {key}", found, parts)])
    if own:
        raise ConfigError([_missing_text(f"data.root={root}: {key} ({own[0]})", found, parts)])
    return None


def _incomplete(what: str, found: Match) -> Iterator[str]:
    """A problem for each set of numbered files, `train-00000-of-00002.parquet`, of which some are not there."""
    sets: dict[tuple[Path, str, str, str], set[int]] = {}
    for path in found.files.values():
        if shard := SHARD.fullmatch(path.name):
            sets.setdefault((path.parent, shard["start"], shard["count"], shard["end"]), set()).add(int(shard["number"]))
    for (folder, start, count, end), numbers in sets.items():
        if absent := sorted(set(range(int(count))) - numbers):
            first = f"{start}{absent[0]:0{len(count)}d}-of-{count}{end}"
            yield (
                f"{what}: {folder} lacks {len(absent)} of {int(count)} files, the first {first}. Download the rest, or read "
                "what is there with reader=files and a path"
            )


def _is_folder(path: Path, earlier: Sequence[Path]) -> bool:
    """Whether a folder exists, or had files earlier."""
    return path.is_dir() or any(path in file.parents for file in earlier)


def _with_reversed_tests(found: Match, parts: list[str]) -> Match:
    """A test set out of English that is one into English, reversed; training text has no direction of its own."""
    own = {name.split(".")[0] for name in found.files}
    turned = [part for part in parts if part.startswith("en-") and not own & {part, "all"}]
    return dataclasses.replace(found, reversed=list(dict.fromkeys([*found.reversed, *turned])))


def _is_alma(repo: str) -> bool:
    """Whether ALMA's own folders hold the data set: the human-written pairs, whose `valid` or `test` files are test sets too."""
    return repo in ("haoranxu/ALMA-Human-Parallel", "haoranxu/WMT22-Test", "haoranxu/WMT23-Test")


def _missing_text(what: str, found: Match, parts: list[str]) -> str:
    if folder := next((place.rstrip("/") for place in found.looked if Path(place).expanduser().is_dir()), ""):
        return f"{what}: {folder} is a folder; expected files, as in {folder}/{{lang}}-en.tsv or {folder}/*.jsonl"
    present = [part for part in parts if part not in found.missing]
    tried = f"; looked for {', '.join(found.looked[:4])}" if found.looked else ""
    pairs = bool(present) and "-" in present[0]
    choice = f". Use the directions that have text (directions={','.join(present)}), or add the files" if pairs else ""
    return f"{what} has no text for {', '.join(found.missing)}{tried}{choice}"
