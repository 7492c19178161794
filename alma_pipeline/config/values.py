"""Turns a composed tree into plain values and frozen dataclasses. Knows types and interpolations, but no limits and no recipe.

OmegaConf could do the same, but parsing each `${budget.mono.steps}` with its grammar takes half of a plan's time.
"""

import dataclasses
import functools
import re
import types
import typing
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import errors
from alma_pipeline.config.hydra_errors import describe
from alma_pipeline.schema import fields

ANOTHER = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
"""The interpolation of one key and nothing else; OmegaConf resolves all others."""
Path = tuple[Any, ...]
"""The names and list positions that lead to a value."""
UNRESOLVED = object()
"""Stands for a value whose problem is in `found` already."""
DEPTH = 20
"""Limit for nested interpolations; deeper ones are circular."""


class ResolvedTree:
    """The plain values of a tree; interpolations are resolved on access."""

    def __init__(self, tree: DictConfig, found: list[str]) -> None:
        self.tree = tree
        self.found = found
        """Collects a text for each value that cannot be resolved."""
        self.plain: Any = OmegaConf.to_container(tree, resolve=False)

    def at(self, key: str) -> Any:
        """The value of a dotted key that exists."""
        path = tuple(key.split("."))
        return self._resolved(self._look_up(path), path, 0)

    def _look_up(self, path: Path) -> Any:
        value = self.plain
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value

    def _resolved(self, value: Any, path: Path, depth: int) -> Any:
        if isinstance(value, dict):
            return {name: self._resolved(child, (*path, name), depth) for name, child in value.items()}
        if isinstance(value, list):
            return [self._resolved(child, (*path, number), depth) for number, child in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        other = ANOTHER.fullmatch(value)
        if other and depth < DEPTH:
            there = tuple(other[1].split("."))
            target = self._look_up(there)
            if target is not None:
                return self._resolved(target, there, depth + 1)
        return self._from_omegaconf(path)

    def _from_omegaconf(self, path: Path) -> Any:
        """A value as OmegaConf resolves it."""
        try:
            value: Any = self.tree
            for part in path:  # not by a dotted key: the name of a system may hold dots
                value = value[part]
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            self.found.append(describe(error, ".".join(map(str, path))))
            return UNRESOLVED


def build(schema: type, values: Any, key: str, found: list[str]) -> Any:
    """Plain values as a dataclass; None if they do not fit, with a text in `found` for each mistake."""
    if not isinstance(values, dict):
        if values is not UNRESOLVED and values != MISSING:
            found.append(f"{key}={values}: expected a mapping with {', '.join(_hints(schema))}")
        return None

    # Names, then the value of each field.
    before = len(found)
    hints = _hints(schema)
    found += [
        f"{_under(key, name)}: no such key; {errors.suggestion(str(name), list(hints))}" for name in values if name not in hints
    ]
    arguments = {}
    for item in dataclasses.fields(schema):
        value = values.get(item.name, item.default)
        if value is UNRESOLVED:
            continue
        if value is MISSING or value == MISSING:
            found.append(f"{_under(key, item.name)}: missing; give it {fields.expected(hints[item.name])}")
        elif item.name in values:
            arguments[item.name] = _fitted(hints[item.name], value, _under(key, item.name), found)
    unresolved = any(value is UNRESOLVED for value in values.values())
    return schema(**arguments) if len(found) == before and not unresolved else None


def _under(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    hints = typing.get_type_hints(schema)
    return {item.name: hints[item.name] for item in dataclasses.fields(schema)}


def _fitted(hint: Any, value: Any, key: str, found: list[str]) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(Any, hint), value, key, found)
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is dict and isinstance(value, dict) and dataclasses.is_dataclass(parts[1]):
        return {name: build(typing.cast(Any, parts[1]), child, f"{key}.{name}", found) for name, child in value.items()}
    alternatives = parts if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if isinstance(value, int) and not isinstance(value, bool) and float in alternatives:
        return float(value)
    if _is_truth(hint, value):
        found.append(f"{key}={value}: found {fields.TRUTH_IN_YAML}")
    elif not fields.fits(hint, value):
        found.append(f"{key}={value}: expected {fields.expected(hint)}, found {value!r}")
    return value


def _is_truth(hint: Any, value: Any) -> bool:
    """Whether a word, or one of several, was written as a truth value; OmegaConf turns it into the text True or False."""
    if isinstance(value, (list, dict)):
        words = hint is Any or typing.get_args(hint)[-1:] == (str,)
        return words and any(_is_truth(str, item) for item in (value.values() if isinstance(value, dict) else value))
    return hint in (Any, str, str | None) and (isinstance(value, bool) or value in ("True", "False"))
