"""Finds the file or the other key that a setting's value comes from, for error messages. Loads files, composes nothing."""

import re
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from alma_pipeline.paths import CONF

SEARCH_PATH = "hydra.searchpath"


def config_folders(overrides: list[str]) -> list[Path]:
    """The folders that options come from: conf/, then those of `hydra.searchpath`, which `--config-dir` sets."""
    given = [parsed(text) for text in overrides if text.startswith(SEARCH_PATH)]
    found = [override.value() for override in given if override]
    paths = [str(path) for value in found if isinstance(value, list) for path in value]
    return [CONF, *(Path(path.removeprefix("file://")) for path in paths)]


def parsed(text: str) -> Override | None:
    """A parsed override; None if the text is not one."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def is_choice(key: str, folders: list[Path]) -> bool:
    """Whether an override's key names a config group rather than a value."""
    return any((folder / key).is_dir() for folder in folders) or key.startswith("hydra/")


def with_origin(texts: list[str], tree: DictConfig, overrides: list[str]) -> list[str]:
    """Add to each problem the file or the other key that its value comes from, unless an override sets it.

    Drops the problem of a value that is interpolated from another one with a problem.
    """
    given = {text.lstrip("+").partition("=")[0] for text in overrides}
    keyed = {text: re.split(r"[=:]", text, maxsplit=1)[0] for text in texts}
    bad = set(keyed.values())
    return [text + _origin(key, tree, overrides, given) for text, key in keyed.items() if _interpolated(tree, key) not in bad]


def _origin(key: str, tree: DictConfig, overrides: list[str], given: set[str]) -> str:
    if key in given:
        return ""
    source = _interpolated(tree, key)
    if source in given:
        return f" (taken from {source})"
    for name in filter(None, (key, source)):
        file = _setting_file(name, overrides)
        if file:
            return f" (set in {file})" if name == key else f" (taken from {source}, set in {file})"
    return f" (taken from {source})" if source else ""


def _interpolated(tree: DictConfig, key: str) -> str:
    """The key that a key's value is interpolated from; empty if none."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
            return ""
        node = node._get_node(part, validate_access=False)  # an added entry may lack required fields
    raw = str(node._value()) if node is not None else ""
    return raw[2:-1] if re.fullmatch(r"\$\{[\w.]+\}", raw) else ""


def _setting_file(key: str, overrides: list[str]) -> str:
    """The file of a chosen option that sets a key; the experiment's comes first. Empty if none does."""
    folders = config_folders(overrides)
    chosen = dict(text.split("=", 1) for text in overrides if "=" in text and is_choice(text.partition("=")[0], folders))
    for group, option in sorted(chosen.items(), key=lambda choice: choice[0] != "experiment"):
        for path in (folder / group / f"{option}.yaml" for folder in reversed(folders)):
            if path.exists() and _sets(path, group, key):
                return str(path)
    return ""


def _sets(path: Path, group: str, key: str) -> bool:
    """Whether a configuration file sets a key. False for invalid YAML, which is reported elsewhere."""
    # A file without a global package holds keys relative to its group.
    text = path.read_text(encoding="utf-8")
    if not re.match(r"\s*#\s*@package\s+_global_", text):
        if not key.startswith(f"{group}."):
            return False
        key = key.removeprefix(f"{group}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True
