"""`show` and `plan --diff`: finished artifacts by name or key, and what differs between two."""

import json
from pathlib import Path

from rich.table import Table

from alma_pipeline.console import Screen
from alma_pipeline.errors import UserError
from alma_pipeline.plan.reasons import every_difference
from alma_pipeline.store.lookup import find, lineage
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import seconds, size


def main(root: Path, names: list[str]) -> int:
    """Print a record, its lineage and its scores. Raises UserError for an unknown or ambiguous name."""
    if len(names) != 1:
        raise UserError("show takes one node name, key or artifact folder name; `show parallel`, `show 3f2a91`")
    store = Store(root)
    record = find(store, names[0])
    console = Screen()
    console.say(f"{record.name}  {record.kind}  {record.key}", style="bold")
    console.say(f"{record.path}\nmade {record.created} in {seconds(record.seconds)}, {_size(record)}")
    console.say("\nlineage")
    for line in lineage(store, record, 1):
        console.say(line)
    console.say("\nsettings")
    console.print_json(json.dumps(record.payload["config"]))
    console.say("\nresult")
    console.print_json(json.dumps(record.result))
    return 0


def diff(root: Path, first: str, second: str) -> int:
    """Print every setting and input in which two artifacts differ."""
    store = Store(root)
    a, b = find(store, first), find(store, second)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", a.path.name, b.path.name):
        table.add_column(name, overflow="fold")
    for row in every_difference(a.payload, b.payload):
        table.add_row(*row)
    console = Screen()
    console.print(table if table.row_count else "no difference in settings or inputs")
    return 0


def _size(record: Record) -> str:
    return f"{len(record.files)} files, {size(sum(record.files.values()))}"
