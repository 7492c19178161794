"""Resolves a node name, key prefix or folder name to an artifact, and lists its ancestors."""

from alma_pipeline.errors import UserError, suggestion
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store


def find_artifact(store: Store, text: str) -> Record:
    """The artifact of a folder name, a node name (the newest) or a key prefix of at least 4 characters, in this order.

    Follows aliases. Raises UserError if nothing matches, the prefix is ambiguous, or a match has a record that cannot be read.
    """
    records = store.records()
    for folder, reason in store.unreadable().items():
        name, _, key = folder.name.rpartition("-")
        if text in (folder.name, name) or (len(text) >= 4 and key.startswith(text[: len(key)])):
            raise UserError(reason)
    for match in (
        [record for record in records if record.path.name == text],
        [record for record in records if record.name == text][:1],
        [record for record in records if len(text) >= 4 and record.key.startswith(text)],
    ):
        if len(match) > 1:
            raise UserError(
                f"'{text}' is a prefix of {len(match)} keys: {', '.join(r.path.name for r in match)}; give more characters"
            )
        if match:
            return _resolve_alias(store, match[0])
    names = sorted({record.name for record in records})
    raise UserError(f"no artifact '{text}' in {store.root}; {suggestion(text, names) if names else 'the store is empty'}")


def _resolve_alias(store: Store, record: Record) -> Record:
    """The artifact that an alias points to; the record itself if it is no alias or its target is missing."""
    return (store.find(record.alias_of) if record.alias_of else None) or record


def lineage(store: Store, record: Record, depth: int) -> list[str]:
    """The artifacts that `record` was made from, one line each, indented by depth."""
    lines = []
    for role, key in record.payload["inputs"].items():
        try:
            source, state = store.find(key), "missing"
        except UserError:
            source, state = None, "its record cannot be read"
        lines.append(f"{'  ' * depth}{role}: {source.path.name if source else f'{key[:12]} ({state})'}")
        if source:
            lines += lineage(store, source, depth + 1)
    return lines
