"""`show`: one finished artifact, found by name or key: its record, lineage, settings and result."""

import json
from pathlib import Path

from alma_pipeline import instants
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import LiteralConsole
from alma_pipeline.paths import store_root
from alma_pipeline.store.lookup import find_artifact, lineage
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import duration, size


def main(arguments: Arguments) -> int:
    """Print an artifact. Raises UserError for an unknown or ambiguous name."""
    return show(store_root(), arguments.artifact)


def show(root: Path, name: str) -> int:
    """Print a record, its lineage, its settings and its result."""
    store = Store(root)
    record = find_artifact(store, name)
    console = LiteralConsole()
    console.print_line(f"{record.name}  {record.kind}  {record.key}", style="bold")
    console.print_line(f"{record.path}\nmade {instants.shown(record.created)} in {duration(record.seconds)}, {_size(record)}")
    console.print_line("\nlineage")
    for line in lineage(store, record, 1):
        console.print_line(line)
    console.print_line("\nsettings")
    console.print_json(json.dumps(record.payload["config"]))
    console.print_line("\nresult")
    console.print_json(json.dumps(record.result))
    return 0


def _size(record: Record) -> str:
    return f"{len(record.files)} files, {size(sum(record.files.values()))}"
