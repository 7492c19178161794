"""Describes an exception of Hydra, OmegaConf or the YAML parser in one line; the reason is often only in its cause."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError, OmegaConfBaseException

from alma_pipeline import errors
from alma_pipeline.schema.fields import TRUTH_IN_YAML

PRIMARY = ("config", "hydra/config")
"""Files that Hydra names for any choice, wherever it was made."""


def describe(error: BaseException, key: str = "", folders: list[Path] | None = None) -> str:
    """What was found and expected, after the file that Hydra names (looked up in `folders`) or `key`."""
    # The most precise link of the chain wins: a YAML position, then a missing option, then a full key.
    chain = _chain(error)
    file = next((found for link in chain if (found := _file_of(link, folders or []))), "")
    before = f"{file}: " if file else ""
    for link in chain:
        if isinstance(link, yaml.MarkedYAMLError):
            return f"{_mark(link)}: not valid YAML: {link.problem}"
        if isinstance(link, MissingConfigException) and link.options is not None and link.missing_cfg_file:
            group, _, name = link.missing_cfg_file.rpartition("/")
            text = f"{group}={name}: no such option; {errors.suggestion(name, list(link.options))}"
            return f"{before or (f'{key}: ' if key else '')}{text}"
    keyed = next((link for link in chain if getattr(link, "full_key", None)), None)
    if keyed is None:
        text = first_line(error)
        return f"{before}{key}: {text}" if key and key not in text else before + text
    return before + _keyed(keyed)


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and its causes, as far as Hydra, OmegaConf or the YAML parser raised them."""
    chain = [error]
    while True:
        last = chain[-1]
        earlier = last.__cause__ or last.__context__
        if not isinstance(earlier, (HydraException, OmegaConfBaseException, yaml.YAMLError)) or earlier in chain:
            return chain
        chain.append(earlier)


def _keyed(error: Any) -> str:
    """The text for an OmegaConf error with a full key."""
    # An unknown key: suggest the nearest one.
    key, text = error.full_key, first_line(error)
    if truth := re.search(r"Key (True|False) \(bool\)", text):
        return f"{key.rpartition('.')[0]}: found the key {truth[1]}, {TRUTH_IN_YAML}"
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and not isinstance(error, InterpolationKeyError):
        name = key.rpartition(".")[2]
        if dataclasses.is_dataclass(error.object_type):
            known = [item.name for item in dataclasses.fields(error.object_type)]
        else:
            known = [str(other) for other in error.parent_node or ()]
        if key == "experiment" or key.startswith("experiment."):
            return f"{key}: no such key; a file of the group experiment starts with the line '# @package _global_'"
        return f"{key}: no such key; {errors.suggestion(name, known)}" if known else f"{key}: no such key"
    # A missing value: name it in full, since OmegaConf may name the last part only.
    missing = re.search(r"missing mandatory value: ([\w.]+)", text, re.IGNORECASE)
    if missing:
        name = missing[1]
        return f"{name if '.' in name else key if key.endswith(name) else f'{key}.{name}'}: missing; give it a value"
    return text if key in text else f"{key}: {text}"


def first_line(error: BaseException) -> str:
    """An error's first line with text, and the next one if the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return f"{text} {lines[1]}" if text.endswith(":") and len(lines) > 1 else text


def _file_of(error: BaseException, folders: list[Path]) -> str:
    """The file that Hydra says an error is in."""
    named = re.match(r"In '([^']+)'", str(error))
    if not named or named[1] in PRIMARY:
        return ""
    paths = [folder / f"{named[1]}.yaml" for folder in folders]
    return str(next((path for path in paths if path.exists()), named[1]))


def _mark(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a configuration file"
