"""The nearest earlier artifact of a node, and whether it belongs to another model or other data. Compares payloads only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import build_dataclass
from alma_pipeline.schema import NodeConfig
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.identity import differences
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

WITHOUT_NAME = ("candidates", "files")
"""Readers whose text has no public name: sampled by the recipe itself, or files known by their content alone."""


@dataclass(frozen=True)
class Origins:
    """What an artifact descends from, by name."""

    models: frozenset[str] = frozenset()
    """Every base model and published checkpoint."""
    data: frozenset[str] = frozenset()
    """Every data set."""

    def __or__(self, other: "Origins") -> "Origins":
        return Origins(self.models | other.models, self.data | other.data)


class Lineages:
    """Origins of planned and stored artifacts; each artifact is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Origins] = {}

    def add(self, key: str, payload: Mapping[str, Any]) -> None:
        """Make a planned artifact known, which the store need not have. Its inputs come first."""
        self._known[key] = self._of(payload)

    def unlike(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether two artifacts are of different models, and whether they are of different data.

        They are if both have a named origin and share none: models are named by source and repository, data by reader and
        repository. Revisions do not count, and neither does an architecture that was changed by settings: those are ordinary
        differences. What is no longer in the store is unknown and counts for neither.
        """
        before, after = self._of(old), self._of(new)
        return _disjoint(before.models, after.models), _disjoint(before.data, after.data)

    def _of(self, payload: Mapping[str, Any]) -> Origins:
        found = Origins(frozenset(_models(payload)), frozenset(_data(payload)))
        for key in payload["inputs"].values():
            found |= self._of_key(key)
        return found

    def _of_key(self, key: str) -> Origins:
        if key not in self._known:
            try:
                record = self._store.find(key)
            except UserError:  # the damage of another artifact is not this plan's concern
                record = None
            self._known[key] = self._of(record.payload) if record else Origins()
        return self._known[key]


def nearest(lineages: Lineages, earlier: list[Record], payload: Mapping[str, Any]) -> Record | None:
    """The artifact with the fewest differences: of the same kind first, then of the same model and data."""

    def distance(record: Record) -> tuple[bool, bool, int]:
        old = record.payload
        changed = sum(len(differences(old[part], payload[part])) for part in ("config", "inputs"))
        return old["kind"] != payload["kind"], any(lineages.unlike(old, payload)), changed

    return min(earlier, key=distance, default=None)


def _disjoint(before: frozenset[str], after: frozenset[str]) -> bool:
    return bool(before and after) and not before & after


def _models(payload: Mapping[str, Any]) -> Iterator[str]:
    config = payload["config"]
    if payload["kind"] == "base":
        yield f"{config['source']} {config.get('repo') or ''}"
    elif payload["kind"] == "released" and config.get("repo"):
        yield f"hub {config['repo']}"


def _data(payload: Mapping[str, Any]) -> Iterator[str]:
    try:
        node: NodeConfig = build_dataclass(kind_config(payload["kind"]), payload["config"])
    except (ImportError, KeyError, TypeError):  # adopted by hand, or recorded by another version: its text is unknown
        return
    for text in node.text_inputs().values():
        if text.source.reader not in WITHOUT_NAME:
            yield f"{text.source.reader} {text.source.repo or ''}"
