"""Why a node runs, as one short clause: what differs from the nearest earlier artifact. The whole difference is `plan --why`."""

from collections.abc import Iterator, Mapping
from typing import Any

from alma_pipeline.plan.node import Node, base_name
from alma_pipeline.plan.step import Cause
from alma_pipeline.store.identity import ABSENT, differences
from alma_pipeline.units import shorten, typed

MAX_CAUSES = 3
"""Causes that a reason names; it counts the others."""
ORIGIN = ("reader", "source", "repo", "revision")
"""Settings that together say where a text or a model comes from."""
REVISION_LENGTH = 12
"""Characters of a commit that are shown."""


def run_reason(node: Node, old: Mapping[str, Any] | None, new: Mapping[str, Any], context: str) -> tuple[Cause, str]:
    """Why the artifact `new` has to be made, given the payload of the nearest earlier one (None: there is none).

    `context` names the model or data that the two do not share (`model 13b`), and is empty if they share both. Then too many
    settings differ for a list to help, and the reason is "new for model 13b"; only a single changed setting is still named.
    """
    if old is None:
        return Cause.NEW, "new"
    if old["kind"] != new["kind"]:
        return Cause.VERSION_CHANGED, f"kind {old['kind']} → {new['kind']}"
    version = [f"version of {node.kind} {old['version']} → {new['version']}"] if old["version"] != new["version"] else []
    version += [f"rule {name} has changed" for name, _, _ in differences(old.get("rules", {}), new.get("rules", {}))]
    own = list(changed_settings(node.setting, old["config"], new["config"]))
    inputs = _changed_inputs(node, old["inputs"], new["inputs"])
    if context and (len(own) != 1 or inputs or version):
        return Cause.NEW, f"new for {context}"
    if own:
        return Cause.SETTINGS_CHANGED, _clause(own, [*inputs, *version])
    if inputs or version:
        return Cause.INPUTS_CHANGED if inputs else Cause.VERSION_CHANGED, "; ".join([*inputs, *version])
    return Cause.INCOMPLETE, "artifact is incomplete"


def every_difference(old: Mapping[str, Any], new: Mapping[str, Any], setting: str = "") -> list[tuple[str, str, str]]:
    """(name, before, after) of every setting, of kind, version and rules, and of every input, whose keys are shortened.

    `setting`: the key below which the settings are typed, such as `stages.cpo`; without it their names are relative.
    """
    prefix = f"{setting}." if setting else ""
    found = [
        (f"{prefix}{name}", typed(before), typed(after)) for name, before, after in differences(old["config"], new["config"])
    ]
    found += [(key, str(old[key]), str(new[key])) for key in ("kind", "version") if old[key] != new[key]]
    found += [(f"rule {name}", str(a), str(b)) for name, a, b in differences(old.get("rules", {}), new.get("rules", {}))]
    found += [(f"input {role}", str(a)[:12], str(b)[:12]) for role, a, b in differences(old["inputs"], new["inputs"])]
    return found


def _clause(settings: list[str], others: list[str]) -> str:
    """Settings first if all of them fit; otherwise the other causes first, then some settings and a count."""
    if len(settings) + len(others) <= MAX_CAUSES:
        return "; ".join([", ".join(settings), *others])
    shown = max(1, MAX_CAUSES - len(others))
    left = len(settings) - shown
    more = f" and {left} more setting{'s' if left > 1 else ''}" if left else ""
    return "; ".join([*others, ", ".join(settings[:shown]) + more])


def _changed_inputs(node: Node, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`inputs changed: init (parallel), preferences`, then inputs that are no longer read."""
    roles = [role for role, _, _ in differences(old, new)]
    changed = [_input_name(node, role) for role in roles if role in node.inputs]
    removed = [role for role in roles if role not in node.inputs]
    texts = (("inputs changed: ", changed), ("no longer reads ", removed))
    return [text + ", ".join(names) for text, names in texts if names]


def _input_name(node: Node, role: str) -> str:
    """`init (parallel)`; the role alone if the input is called like it, or if it is the checkpoint that names an evaluation."""
    source = node.inputs[role]
    return role if base_name(source) == role or node.name == f"{source}.translate" else f"{role} ({source})"


def changed_settings(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A text for each setting that differs, nested ones as one; where a text or a model comes from is the first."""
    skipped: tuple[str, ...] = ()
    if origins := _origins(old, new):
        skipped = ORIGIN
        yield f"{where} {origins}"
    for name in dict.fromkeys((*new, *old)):
        if name not in skipped:
            yield from _change(f"{where}.{name}", old.get(name, ABSENT), new.get(name, ABSENT))


def _change(where: str, old: Any, new: Any) -> Iterator[str]:
    """One text for everything that differs in a setting, or none."""
    found = differences({where: old}, {where: new})
    if not found:
        return
    # A table of sources or languages reads best by its entries; other nested settings are named by the first that differs.
    nested = isinstance(old, Mapping) and isinstance(new, Mapping)
    if nested and (origins := _origins(old, new)):
        yield f"{where} {origins}"
    elif nested and (entries := _entries(old, new)):
        yield f"{where} {entries}"
    else:
        name, before, after = found[0]
        more = f" (+{len(found) - 1} more)" if len(found) > 1 else ""
        yield f"{name} {shorten(before)} → {shorten(after)}{more}"


def _origins(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where a text or a model came from and comes from; empty if that is unchanged or unknown."""
    before, after = _origin(old), _origin(new)
    return f"{before} → {after}" if before and after and before != after else ""


def _origin(values: Mapping[str, Any]) -> str:
    parts = {name: str(values[name]) for name in ORIGIN if values.get(name)}
    return " ".join(text[:REVISION_LENGTH] if name == "revision" else text for name, text in parts.items())


def _entries(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which entries of a table were added and removed: `added is, removed nl`."""
    added = [name for name, entry in new.items() if isinstance(entry, Mapping) and name not in old]
    removed = [name for name, entry in old.items() if isinstance(entry, Mapping) and name not in new]
    return ", ".join(f"{verb} {', '.join(names)}" for verb, names in (("added", added), ("removed", removed)) if names)
