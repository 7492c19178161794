"""`show`: one finished artifact, found by name or key: its record, lineage, settings and result."""

import json
from pathlib import Path

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import Screen
from alma_pipeline.paths import store_root
from alma_pipeline.store.lookup import find, lineage
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import seconds, size


def main(arguments: Arguments) -> int:
    """Print an artifact. Raises UserError for an unknown or ambiguous name."""
    return show(store_root(), arguments.artifact)


def show(root: Path, name: str) -> int:
    """Print a record, its lineage, its settings and its result."""
    store = Store(root)
    record = find(store, name)
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


def _size(record: Record) -> str:
    return f"{len(record.files)} files, {size(sum(record.files.values()))}"
