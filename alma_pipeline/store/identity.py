"""Artifact keys: what an artifact is, as one hash. Knows nothing of paths, devices or package versions."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from alma_pipeline.schema import NodeConfig

NODE_FIELDS = {item.name for item in dataclasses.fields(NodeConfig)}
ABSENT = "(absent)"
"""What `differences` shows for a setting that one side does not have."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value; equal values give equal text in every process.

    Raises TypeError for anything without a stable rendering (callables, sets, NaN, objects).
    """
    return json.dumps(_plain(value, "payload"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise TypeError(f"{where} is {value!r}, which holds half a character and cannot be written as UTF-8")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}: a key needs finite numbers")
        # 1 and 1.0 are the same setting, however the user typed it.
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise TypeError(f"{where} has the key {bad[0]!r}: a key needs string keys")
        return {key: _plain(child, f"{where}.{key}") for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child, f"{where}[{i}]") for i, child in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no stable text; use plain values or a dataclass of them")


def settings(config: NodeConfig) -> dict[str, Any]:
    """The part of a node's configuration that decides its result, as plain nested values.

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


def payload(config: NodeConfig, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What is hashed: kind, the kind's version, settings, and the key of each input by its role."""
    return {
        "kind": config.kind,
        "version": type(config).version,
        "config": settings(config),
        "inputs": dict(inputs),
    }


def key_of(payload: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, f"{prefix}.{key}" if prefix else key)
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) where two settings differ, in the new one's order; null is not the same as `ABSENT`."""
    before, after = flatten(old), flatten(new)
    names = [*after, *(name for name in before if name not in after)]
    pairs = [(name, before.get(name, ABSENT), after.get(name, ABSENT)) for name in names]
    return [(name, a, b) for name, a, b in pairs if a != b]
