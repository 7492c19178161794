"""Artifact keys: one hash of everything that determines an artifact. Paths, devices and package versions are not part of it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from alma_pipeline.schema import NodeConfig

NODE_FIELDS = {item.name for item in dataclasses.fields(NodeConfig)}
ABSENT = "(absent)"
"""Placeholder of `differences` for a setting that one side lacks."""


def canonical_json(value: Any) -> str:
    """The canonical JSON of a plain value: equal values give equal text in every process.

    Raises TypeError for anything without a stable representation (callables, sets, NaN, objects).
    """
    return json.dumps(_plain(value, "payload"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any, where: str) -> Any:
    """`value` with numbers normalised; `where` is its dotted path, for errors. Raises TypeError."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        # JSON can hold it, but a key is hashed as UTF-8.
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise TypeError(f"{where} is {value!r}, which contains a lone surrogate and cannot be encoded as UTF-8")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}; a key can contain only finite numbers")
        # 1 and 1.0 are the same setting and must give the same key.
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise TypeError(f"{where} has the key {bad[0]!r}; mappings in a key need string keys")
        return {key: _plain(child, f"{where}.{key}") for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child, f"{where}[{i}]") for i, child in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no stable text; use plain values or dataclasses of them")


def key_settings(config: NodeConfig) -> dict[str, Any]:
    """The settings that determine a node's result, as plain nested values.

    A field whose metadata holds `as_before` is left out while it has that value: it was added after artifacts
    existed, and the value means what they did.
    """
    return {key: value for key, value in _fields(config).items() if key not in NODE_FIELDS}


def _fields(config: Any) -> dict[str, Any]:
    result = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if "as_before" in item.metadata and value == item.metadata["as_before"]:
            continue
        result[item.name] = _value(value)
    return result


def _value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, dict):
        return {key: _value(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_value(child) for child in value]
    return value


def payload(config: NodeConfig, inputs: Mapping[str, str], changed: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The value that is hashed: kind, the kind's version, changed rules if any, settings, and each input's key by role.

    `changed`: rules whose use does not follow from the node's own settings, beside `config.rules()`.
    """
    rules = config.rules() | dict(changed or {})
    return {
        "kind": config.kind,
        "version": type(config).version,
        **({"rules": rules} if rules else {}),
        "config": key_settings(config),
        "inputs": dict(inputs),
    }


def key_of(payload: Mapping[str, Any]) -> str:
    """The artifact key: SHA-256 of the payload's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; lists are not flattened."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, f"{prefix}.{key}" if prefix else key)
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every setting that differs, in the order of `new`; null differs from `ABSENT`."""
    before, after = flatten(old), flatten(new)
    names = [*after, *(name for name in before if name not in after)]
    pairs = [(name, before.get(name, ABSENT), after.get(name, ABSENT)) for name in names]
    return [(name, a, b) for name, a, b in pairs if a != b]
