"""Dataclass fields with limits in their metadata, and the function that checks a whole tree of them.

Not a validation framework: a limit is data next to the field, and `problems` reads it.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from alma_pipeline.errors import nearest

LARGEST = 2**63 - 1
"""The largest whole number that arrays and random generators take."""
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", list: "a list, as in [a,b]"}


def number(
    default: float | int | str | None,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    as_before: float | None = None,
) -> Any:
    """A number within limits. None is always within them; MISSING as default makes the field required.

    `as_before` is for fields added later: the value that means what the field's absence meant (see `store.identity`).
    """
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return dataclasses.field(default=default, metadata={"limits": limits} | _later(as_before))


def choice(default: str, *others: str, as_before: str | None = None) -> Any:
    """One of several words; `as_before` as for `number`."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)} | _later(as_before))


def _later(as_before: Any) -> dict[str, Any]:
    return {} if as_before is None else {"as_before": as_before}


TRUTH_IN_YAML = "a truth value where a word belongs; in YAML, put no, off, yes and on in quotes: 'no' is Norwegian"


def added_later(item: Any) -> Any:
    """A field added after artifacts existed: its default means what its absence meant, and is not part of the key."""
    return dataclasses.field(default=item.default, metadata={**item.metadata, "as_before": item.default})


def expected(hint: Any) -> str:
    """A type in words: `a whole number or null`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("null" if part is types.NoneType else expected(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return "a list, as in [a,b]"
    return WORDS.get(hint, "settings under it")


def fits(hint: Any, value: Any) -> bool:
    """Whether a plain value matches a type hint, with all items of lists and mappings."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(fits(part, value) for part in typing.get_args(hint))
    if hint is Any:
        return True
    plain = typing.get_origin(hint) or hint
    if isinstance(value, bool):
        return plain is bool
    parts = typing.get_args(hint)
    if isinstance(value, list) and plain is list:
        return all(fits(parts[0], item) for item in value)
    if isinstance(value, dict) and plain is dict:
        return all(isinstance(name, str) and fits(parts[1], item) for name, item in value.items())
    return isinstance(value, (int, float) if plain is float else plain)


def problems(config: Any, key: str) -> Iterator[str]:
    """A message for every field of a dataclass tree that breaks its limits, and the `conflicts()` of every dataclass in it.

    Messages begin with the full dotted key.
    """
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = f"{key}.{item.name}" if key else item.name
        yield from _field_problems(item, value, name)
        children = value.items() if isinstance(value, dict) else [("", value)]
        for child, node in children:
            if dataclasses.is_dataclass(node):
                yield from problems(node, f"{name}.{child}" if child else name)
    if hasattr(config, "conflicts"):
        yield from (f"{key}: {text}" if key else text for text in config.conflicts())


def _field_problems(item: "dataclasses.Field[Any]", value: Any, name: str) -> Iterator[str]:
    """The messages for one field: its choices, its type, its limits."""
    if value is None:
        return
    if unusable := list(_unusable_numbers(value, name)):
        yield from unusable
        return
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        hint = nearest(str(value), list(choices))
        yield f"{name}={value}: expected one of {', '.join(choices)}{f'; {hint}' if hint else ''}"
    # Values from the command line may have the wrong type: check it before comparing.
    limits = item.metadata.get("limits")
    if not limits:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        yield f"{name}={value}: expected a number, found {type(value).__name__}"
        return
    broken = [
        text
        for text, bad in (
            (f"above {limits['above']}", limits["above"] is not None and not value > limits["above"]),
            (f"at least {limits['at_least']}", limits["at_least"] is not None and value < limits["at_least"]),
            (f"below {limits['below']}", limits["below"] is not None and not value < limits["below"]),
            (f"at most {limits['at_most']}", limits["at_most"] is not None and value > limits["at_most"]),
        )
        if bad
    ]
    if broken:
        yield f"{name}={value}: expected a number {' and '.join(broken)}"


def _unusable_numbers(value: Any, name: str) -> Iterator[str]:
    """A message for each number in a plain value that no machine number can hold."""
    if isinstance(value, (dict, list)):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for child, item in children:
            yield from _unusable_numbers(item, f"{name}.{child}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name}={value}: expected a finite number"
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield f"{name}={value}: expected a number of at most 2^63 - 1"
