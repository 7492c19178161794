"""Every setting of the tree with values of a wrong type, out of range and absurdly large: refused by name, or planned."""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.config import load
from alma_pipeline.config.values import build
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.schema import Config, fields
from alma_pipeline.store.store import Store

WRONG: dict[Any, list[Any]] = {
    int: ["abc", 1.5, True, [1], {"a": 1}, 2**63, -(2**70)],
    float: ["abc", True, [1.0], {"a": 1}, float("nan"), float("inf")],
    str: [True, "True", ["a"], {"a": 1}, 3],
    bool: ["abc", 2, [True]],
    list: ["abc", 5, {"a": 1}, [{"a": 1}], [["a"]], [None], [5], [False]],
    dict: ["abc", 5, [1], {"a": [1]}, {"a": None}, {3: "a"}],
}
"""For each type values that no setting of that type takes."""
EXTREMES: dict[Any, list[Any]] = {int: [-(2**62), -1, 0, 1, 2**62], float: [-1.0, 0.0, 5e-324, 1e300]}
ESTIMATED = ("hardware.", "model.architecture.", "data.expected.", "stages.cpo.", "stages.mono_corpus.", "stages.translate.")
"""Where a number is used in the plan itself; settings of other nodes take the same way."""


@functools.cache
def whole() -> Config:
    return load.load(["stage=cpo"])


def owners(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass of the tree with its key, one of each class."""
    seen: set[type] = set()

    def walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if type(value) not in seen:
            seen.add(type(value))
            yield key, value
        for item in dataclasses.fields(value):
            child, name = getattr(value, item.name), f"{key}.{item.name}" if key else item.name
            for part, node in child.items() if isinstance(child, dict) else [("", child)]:
                if dataclasses.is_dataclass(node):
                    yield from walk(node, f"{name}.{part}" if part else name)

    yield from walk(value, key)


def settings() -> Iterator[tuple[str, Any, str, Any, bool]]:
    """Key, owner, field, type and whether null is allowed, of every setting whose type is known."""
    for key, owner in owners(whole()):
        hints = typing.get_type_hints(type(owner))
        for item in dataclasses.fields(owner):
            hint = hints[item.name]
            parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
            kind = next(part for part in parts if part is not types.NoneType)
            if typing.get_args(kind)[-1:] != (Any,):  # tables whose entries are built by `check`
                plain = typing.get_origin(kind) or kind
                yield f"{key}.{item.name}" if key else item.name, owner, item.name, plain, types.NoneType in parts


def refusals(key: str, owner: Any, name: str, value: Any) -> list[str]:
    """What the configuration answers to a value, with all others as they are."""
    found: list[str] = []
    prefix = key.removesuffix(name).removesuffix(".")
    built = build(type(owner), dataclasses.asdict(owner) | {name: value}, prefix, found)
    return found or list(fields.problems(built, prefix))


def test_a_value_of_a_wrong_type_is_refused_by_its_full_name() -> None:
    """Also None where null is no value, and numbers that no machine number can hold."""
    asked = [
        (key, value, refusals(key, owner, name, value))
        for key, owner, name, kind, optional in settings()
        if kind in WRONG
        for value in [*WRONG[kind], *([] if optional else [None])]
    ]
    assert [row for row in asked if not any(text.startswith(row[0]) and "\n" not in text for text in row[2])] == []
    assert len(list(settings())) > 200


def with_value(config: Any, path: list[str], value: Any) -> Any:
    """The configuration with one setting changed."""
    first, *rest = path
    if isinstance(config, dict):
        return config | {first: with_value(config[first], rest, value)}
    return dataclasses.replace(config, **{first: with_value(getattr(config, first), rest, value) if rest else value})


def limits(item: "dataclasses.Field[Any]") -> list[Any]:
    found = item.metadata.get("limits") or {}
    return [found[name] for name in ("at_least", "at_most") if found.get(name) is not None]


@pytest.mark.timeout(120)
def test_an_extreme_number_is_refused_or_planned(tmp_path: Path) -> None:
    """The smallest and the largest that are accepted give a plan, or a text without a traceback."""
    planned = 0
    for key, owner, name, kind, _ in settings():
        item = type(owner).__dataclass_fields__[name]
        values = EXTREMES.get(kind, []) + (limits(item) if kind in EXTREMES else [])
        accepted = sorted(value for value in values if not refusals(key, owner, name, value))
        if not key.startswith(ESTIMATED) or not accepted:
            continue
        for value in {accepted[0], accepted[-1]}:
            planned += 1
            try:
                plan = make_plan(with_value(whole(), key.split("."), value), Store(tmp_path))
            except ConfigError:
                continue
            assert all(step.estimate is None or step.estimate.seconds >= 0 for step in plan.steps), (key, value)
    assert planned > 60
