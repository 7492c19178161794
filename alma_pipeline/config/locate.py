"""Which file or which other key a setting comes from, for error texts. Loads files, composes nothing."""

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
    """Where options come from: this project's folder, and those of `hydra.searchpath`, which `--config-dir` sets."""
    given = [parsed(text) for text in overrides if text.startswith(SEARCH_PATH)]
    found = [override.value() for override in given if override]
    paths = [str(path) for value in found if isinstance(value, list) for path in value]
    return [CONF, *(Path(path.removeprefix("file://")) for path in paths)]


def parsed(text: str) -> Override | None:
    """An override taken apart; None for a text that is none."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def is_choice(key: str, folders: list[Path]) -> bool:
    """Whether an override's key names a config group rather than a value."""
    return any((folder / key).is_dir() for folder in folders) or key.startswith("hydra/")


def located(texts: list[str], tree: DictConfig, overrides: list[str]) -> list[str]:
    """The same problems, each with the file or the other key that its value comes from, where that is not plain to see.

    A problem of a value that is taken from another one with a problem is left out.
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
        return f" (it is {source})"
    for name in filter(None, (key, source)):
        file = _setting_file(name, overrides)
        if file:
            return f" (set in {file})" if name == key else f" (it is {source}, set in {file})"
    return f" (it is {source})" if source else ""


def _interpolated(tree: DictConfig, key: str) -> str:
    """The key that a key's value is taken from."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
            return ""
        node = node._get_node(part, validate_access=False)  # a line that was added may lack what it needs
    raw = str(node._value()) if node is not None else ""
    return raw[2:-1] if re.fullmatch(r"\$\{[\w.]+\}", raw) else ""


def _setting_file(key: str, overrides: list[str]) -> str:
    """The file of a chosen option, the experiment's first, that sets a key."""
    folders = config_folders(overrides)
    chosen = dict(text.split("=", 1) for text in overrides if "=" in text and is_choice(text.partition("=")[0], folders))
    for group, option in sorted(chosen.items(), key=lambda choice: choice[0] != "experiment"):
        for path in (folder / group / f"{option}.yaml" for folder in reversed(folders)):
            if path.exists() and _sets(path, group, key):
                return str(path)
    return ""


def _sets(path: Path, group: str, key: str) -> bool:
    """Whether a configuration file gives a key a value; one that cannot be read is told of elsewhere."""
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
