"""Dataclass fields that carry their own limits, checked all at once by `config`.

Not a validation framework: a limit is data beside the field, and one function reads it.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from alma_pipeline.errors import suggestion

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
    """A number within limits; None passes where the annotation allows it, and MISSING makes it required.

    `as_before` is for a field that came later: the value that means what its absence meant (see `identity`).
    """
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return dataclasses.field(default=default, metadata={"limits": limits} | _later(as_before))


def choice(default: str, *others: str, as_before: str | None = None) -> Any:
    """One word of a few; `as_before` as for `number`."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)} | _later(as_before))


def _later(as_before: Any) -> dict[str, Any]:
    return {} if as_before is None else {"as_before": as_before}


def added_later(item: Any) -> Any:
    """A field that came after artifacts were made: its default means what they did, and stays out of their keys."""
    return dataclasses.field(default=item.default, metadata={**item.metadata, "as_before": item.default})


def expected(hint: Any) -> str:
    """A type in words: `a whole number or null`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("null" if part is types.NoneType else expected(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return "a list, as in [a,b]"
    return WORDS.get(hint, "settings under it")


def fits(hint: Any, value: Any) -> bool:
    """Whether a plain value is what a type hint says; what a list or a mapping holds is not looked at."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(fits(part, value) for part in typing.get_args(hint))
    if hint is Any:
        return True
    plain = typing.get_origin(hint) or hint
    if isinstance(value, bool):
        return plain is bool
    return isinstance(value, (int, float) if plain is float else plain)


def problems(config: Any, key: str) -> Iterator[str]:
    """Every field of a dataclass tree that breaks its limits, with its full dotted key."""
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
    if value is None:
        return
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        yield f"{name}={value}: expected one of {', '.join(choices)}; {suggestion(str(value), list(choices))}"
    limits = item.metadata.get("limits")
    if not limits:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        yield f"{name}={value}: expected a number, found {type(value).__name__}"
        return
    if not math.isfinite(value):
        yield f"{name}={value}: expected a finite number"
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
