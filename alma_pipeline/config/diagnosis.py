"""Finds which overrides of a request are wrong: every mistake at once, with its full key and the nearest valid name.

Called only after composition failed, so it may be slow. It changes nothing and decides nothing.
"""

import codecs
import dataclasses
import shlex
import typing
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import errors, paths
from alma_pipeline.config import check, compose
from alma_pipeline.config.groups import option_groups
from alma_pipeline.config.hydra_errors import describe
from alma_pipeline.config.locate import SEARCH_PATH, config_folders, is_choice, with_origin
from alma_pipeline.config.overrides import for_shell, split, unreadable
from alma_pipeline.errors import ConfigError
from alma_pipeline.schema import fields


def problems(overrides: list[str], error: Exception) -> list[str]:
    """One text per mistake in the overrides and in the files they choose; for `error` itself if nothing else is found."""
    # Parse every override, and separate choices of options from values.
    folders = config_folders(overrides)
    found: list[str] = []
    parsed = [(text, override) for text in overrides if (override := _parse(text, found))]
    values = [(text, override) for text, override in parsed if not is_choice(override.key_or_group, folders)]
    choices = [text for text, override in values if override.key_or_group == SEARCH_PATH]
    for text, override in parsed:
        if is_choice(override.key_or_group, folders):
            problem = _bad_choice(text, override, folders)
            (found if problem else choices).append(problem or text)

    # A byte-order mark hides the header of a file, and with it where its settings belong.
    if marked := [path for text in choices for path in _files(text, folders) if path.read_bytes().startswith(codecs.BOM_UTF8)]:
        return [f"{path} starts with a byte-order mark; save it as UTF-8 without one" for path in marked]

    # Apply the values one by one to the tree of the choices that compose, then check the whole.
    tree = _composed(choices, folders, found)
    if tree is not None:
        for text, override in values:
            if override.key_or_group != SEARCH_PATH and (problem := _bad_value(tree, text, override, folders)):
                found.append(problem)
        found += _whole(tree, overrides)
    return list(dict.fromkeys(found)) or [describe(error, folders=folders)]


def _files(choice: str, folders: list[Path]) -> list[Path]:
    """The files of the options that a choice names: several for `experiment=[a,b]`."""
    group, _, options = choice.lstrip("+").partition("=")
    paths = [folder / group / f"{name.strip()}.yaml" for folder in folders for name in options.strip("[]").split(",")]
    return [path for path in paths if path.is_file()]


def unknown_key(overrides: list[str], key: str) -> str:
    """The text for a dotted key that the configuration of these overrides does not have."""
    parsed: list[str] = []
    override = _parse(f"{key}=null", parsed)
    problem = _bad_key(compose.compose_tree(overrides, hydra=True), key, override) if override else None
    return problem or f"{key}: no such key"


def _parse(text: str, found: list[str]) -> Override | None:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        found.append(unreadable(text))
        return None
    if not override.key_or_group:
        found.append(f"{text}: not a setting; expected GROUP=OPTION or KEY=VALUE")
        return None
    if override.is_sweep_override():
        key = override.key_or_group
        found.append(f"{text}: several values; add -m to run once for each{_one_value(key, text, override)}")
        return None
    return override


def _one_value(key: str, text: str, override: Override) -> str:
    """How to write several values as one, if they are no function such as range: a list, or a text with a comma."""
    if override.value_type != ValueType.SIMPLE_CHOICE_SWEEP:
        return ""
    listed = shlex.quote(f"{key}=[{text.partition('=')[2]}]")
    kind = _type_at(compose.compose_tree([]), key)
    if typing.get_origin(kind) is list:
        return f" (or write a list: {listed})"
    # Quotes around a part of the text are not part of it.
    values = override.value()
    assert isinstance(values, ChoiceSweep), "several values"
    parts = zip(split(text.partition("=")[2]), values.list, strict=False)
    typed = ",".join(value.text if isinstance(value, QuotedString) else part for part, value in parts)
    return f" (or write one text: {for_shell(f'{key}={typed}')})" if kind in (None, str, str | None) else ""


def _composed(choices: list[str], folders: list[Path], found: list[str]) -> DictConfig | None:
    """The tree of the choices that compose, added one at a time; adds a text to `found` for each that does not."""
    alone: list[str] = []
    tree = _try(choices, "", folders, alone)
    if tree is not None:
        return tree
    good: list[str] = []
    for text in choices:
        longer = _try([*good, text], text, folders, found)
        tree, good = (longer, [*good, text]) if longer is not None else (tree, good)
    found += [] if found else alone
    return tree if tree is not None else _try([], "", folders, found)


def _try(choices: list[str], newest: str, folders: list[Path], found: list[str]) -> DictConfig | None:
    try:
        return compose.compose_tree(choices)
    except compose.COMPOSITION_ERRORS as error:
        file = next((str(path) for path in reversed(_files(newest, folders))), newest)
        found.append(describe(error, file, folders))
        return None


def _whole(tree: DictConfig, overrides: list[str]) -> list[str]:
    """Problems of the tree as a whole."""
    try:
        config = check.from_tree(tree)
    except ConfigError as error:
        return with_origin(error.problems, tree, overrides)
    return check.graph_problems(config)


def _bad_choice(text: str, override: Override, folders: list[Path]) -> str | None:
    group, value = override.key_or_group, override.value()
    if override.is_delete() or group.startswith("hydra/") or value is None:
        return None
    options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    wrong = [str(name) for name in (value if isinstance(value, list) else [value]) if str(name) not in options]
    if not wrong:
        return None
    hint = errors.nearest(wrong[0], options)
    return f"{text}: no such option{f'; {hint}' if hint else ''} (options: {', '.join(options)})"


def _bad_value(tree: DictConfig, text: str, override: Override, folders: list[Path]) -> str | None:
    """Set one value in the tree; returns its problem if it cannot be set."""
    if override.key_or_group.startswith("hydra."):
        return _bad_hydra(text, folders)
    if override.package is not None:
        return f"{text}: no group '{override.key_or_group}'; {_nearest_key(override.key_or_group, tree, '')}"
    problem = _bad_key(tree, text, override)
    if problem:
        return problem
    try:
        ConfigLoaderImpl._apply_overrides_to_config([override], tree)
    except (HydraException, OmegaConfBaseException) as error:
        kind = _type_at(tree, override.key_or_group)
        if override.is_delete() and kind is not None:
            return f"{text}: a setting cannot be deleted; give it a value"
        if kind is not None and not fields.fits(kind, override.value()):
            return f"{text}: expected {fields.expected(kind)}, found {_shown(override.value())}"
        return describe(error, text, folders)
    return None


def _bad_hydra(text: str, folders: list[Path]) -> str | None:
    try:
        compose.compose_tree([text], hydra=True)
    except compose.COMPOSITION_ERRORS as error:
        return describe(error, text, folders)
    return None


def _bad_key(tree: DictConfig, text: str, override: Override) -> str | None:
    """The first part of a dotted key that does not exist, with the nearest existing name."""
    node: Any = tree
    walked: list[str] = []
    parts = override.key_or_group.split(".")
    for part in parts:
        where = ".".join(walked)
        if not OmegaConf.is_dict(node) or node._is_none():
            return f"{text}: {where} is a value, so it has no key '{part}'"
        if part not in node:
            if _takes_new_names(node, override, last=part == parts[-1]):
                return None
            if where == "stages":
                nodes = [str(name) for name in node]
                return f"{text}: stages.{part} is not used by this stage; {errors.suggestion(part, nodes)}"
            return f"{text}: no key '{part}' {f'in {where}' if where else 'at the top'}; {_nearest_key(part, node, where)}"
        walked.append(part)
        node = node._get_node(part)
    return None


def _takes_new_names(node: DictConfig, override: Override, last: bool) -> bool:
    adding = override.is_add() or override.is_force_add()
    typed = dataclasses.is_dataclass(OmegaConf.get_type(node))
    return not typed and (OmegaConf.is_struct(node) is False or (adding and last))


def _nearest_key(part: str, node: DictConfig, where: str) -> str:
    known = [str(name) for name in node if name != "hydra"]
    if not where:
        known += option_groups(paths.CONF)
    return errors.suggestion(part, sorted(set(known)))


def _type_at(tree: DictConfig, key: str) -> Any:
    """The declared type of a schema's field; None for any other key."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    schema = OmegaConf.get_type(node) if OmegaConf.is_dict(node) else None
    if schema is None or not dataclasses.is_dataclass(schema):
        return None
    return typing.get_type_hints(schema).get(name)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
