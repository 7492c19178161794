"""The artifact that a name, a key or a folder means, and what it was made from."""

from alma_pipeline.errors import UserError, nearest
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store


def find(store: Store, text: str) -> Record:
    """The artifact meant by a key's beginning, a folder name or a node name (its newest)."""
    records = store.records()
    for match in (
        [record for record in records if record.path.name == text],
        [record for record in records if record.name == text][:1],
        [record for record in records if len(text) >= 4 and record.key.startswith(text)],
    ):
        if len(match) > 1:
            raise UserError(f"'{text}' is the beginning of {len(match)} keys: {', '.join(r.path.name for r in match)}")
        if match:
            return _itself(store, match[0])
    names = sorted({record.name for record in records})
    raise UserError(f"no artifact '{text}' in {store.root}; {nearest(text, names) if names else 'the store is empty'}")


def _itself(store: Store, record: Record) -> Record:
    """What an alias points to, where that is there."""
    return (store.find(record.alias_of) if record.alias_of else None) or record


def lineage(store: Store, record: Record, depth: int) -> list[str]:
    """The artifacts one was made from, inputs of inputs indented."""
    lines = []
    for role, key in record.payload["inputs"].items():
        source = store.find(key)
        lines.append(f"{'  ' * depth}{role}: {source.path.name if source else f'{key[:12]} (gone)'}")
        if source:
            lines += lineage(store, source, depth + 1)
    return lines
