"""Why a node runs, told by what differs from an earlier artifact of its name: few words, the nearest cause first."""

from collections.abc import Iterator, Mapping
from typing import Any

from alma_pipeline.plan.node import Node
from alma_pipeline.store.identity import ABSENT, differences
from alma_pipeline.units import short

SHOWN = 3
"""Causes that are named; the others are counted, and `plan --diff` has them all."""
ORIGIN = ("reader", "source", "repo", "revision")
"""Settings that say together where a text or a model comes from."""
REVISION = 12
"""Letters of a revision that tell it from others."""


def because(node: Node, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two payloads: `because stages.cpo.beta 0.1 → 0.2`.

    A setting with settings in it is one cause. Where there are too many, changed inputs come before the node's own settings.
    """
    if old["kind"] != new["kind"]:
        return f"because its earlier artifact is of kind {old['kind']}, now {new['kind']}"
    own = list(_changes(node.setting, old["config"], new["config"]))
    changed = [role for role, _, _ in differences(old["inputs"], new["inputs"])]
    inputs = [
        f"its {role} ({node.inputs[role]}) is another" if role in node.inputs else f"it reads no {role} now" for role in changed
    ]
    version = [f"version of {node.kind} {old['version']} → {new['version']}"] if old["version"] != new["version"] else []
    crowded = len(own) + len(inputs) + len(version) > SHOWN
    texts = [*inputs, *version, *own] if crowded else [*own, *inputs, *version]
    shown = texts[:SHOWN] + ([f"{len(texts) - SHOWN} more"] if crowded else [])
    return f"because {', '.join(shown)}" if texts else "its earlier artifact is not whole"


def _changes(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A text for each setting that differs, where the thing itself comes from first."""
    told: tuple[str, ...] = ()
    if origins := _origins(old, new):
        told = ORIGIN
        yield f"{where} {origins}"
    for name in dict.fromkeys((*new, *old)):
        if name not in told:
            yield from _change(f"{where}.{name}", old.get(name, ABSENT), new.get(name, ABSENT))


def _change(where: str, old: Any, new: Any) -> Iterator[str]:
    """One text for all that differs in a setting, or none."""
    found = differences({where: old}, {where: new})
    if not found:
        return
    nested = isinstance(old, Mapping) and isinstance(new, Mapping)
    if nested and (origins := _origins(old, new)):
        yield f"{where} {origins}"
    elif nested and (entries := _entries(old, new)):
        yield f"{where} {entries}"
    else:
        name, before, after = found[0]
        yield f"{name} {short(before)} → {short(after)}" + (f" ({len(found) - 1} more there)" if len(found) > 1 else "")


def _origins(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where a text or a model comes from, before and after; empty where that is the same, or no such thing."""
    before, after = _origin(old), _origin(new)
    return f"{before} → {after}" if before and after and before != after else ""


def _origin(values: Mapping[str, Any]) -> str:
    said = {name: str(values[name]) for name in ORIGIN if values.get(name)}
    return " ".join(text[:REVISION] if name == "revision" else text for name, text in said.items())


def _entries(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which lines of a table are gone and which are new: `without nl, with is`."""
    gone = [name for name, entry in old.items() if isinstance(entry, Mapping) and name not in new]
    more = [name for name, entry in new.items() if isinstance(entry, Mapping) and name not in old]
    return ", ".join(f"{word} {', '.join(names)}" for word, names in (("without", gone), ("with", more)) if names)
