"""`doctor`: checks the environment and the store. Repairs and deletes nothing."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.files import digest
from alma_pipeline.paths import COMET_PYTHON, store_root
from alma_pipeline.store.record import Record, is_complete, read_record
from alma_pipeline.store.store import Store
from alma_pipeline.units import size

KNOWN_BAD = {
    ("deepspeed", "0.16.0"): "no_sync with ZeRO-3 raises (deepspeedai/DeepSpeed issue 6793)",
    ("deepspeed", "0.16.1"): "no_sync with ZeRO-3 raises (deepspeedai/DeepSpeed issue 6793)",
}
"""B4: releases whose users reported broken training."""
NEEDED = ("hydra-core", "omegaconf", "torch", "transformers", "peft", "deepspeed", "datasets", "mlflow", "sacrebleu", "babel")


def main(arguments: Arguments) -> int:
    """Check this environment and the store."""
    return check(store_root(), arguments.verify)


def check(root: Path, verify: bool) -> int:
    """Print what was found; 0 if nothing is wrong, otherwise 1."""
    console = LiteralConsole()
    store = Store(root)
    problems = [*environment(), *store_problems(store, verify)]
    free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free
    console.print_line(f"store {root}: {len(store.folders())} artifacts, {size(free)} of disk free")
    for name in NEEDED:
        console.print_line(f"{name} {_version(name) or 'missing'}")
    console.print_line(f"COMET {COMET_PYTHON if COMET_PYTHON.is_file() else 'not set up; `make comet` does that'}")
    console.print_line(f"cores {len(os.sched_getaffinity(0))}")
    for text in problems:
        console.print_line(f"✗ {text}", style="red")
    if not problems:
        console.print_line("✓ no problem found" + (", every file matches its digest" if verify else ""), style="green")
    return 1 if problems else 0


def environment() -> Iterator[str]:
    """Missing packages, and releases known to break training (B4)."""
    for name in NEEDED:
        version = _version(name)
        if not version:
            yield f"{name} is not installed; run `pip install -c constraints.txt -e .` in the checkout"
        elif (name, version) in KNOWN_BAD:
            yield f"{name} {version}: {KNOWN_BAD[name, version]}; install the release in constraints.txt"


def store_problems(store: Store, verify: bool) -> Iterator[str]:
    """Artifacts with missing or changed files, and folders without a record."""
    for folder in store.folders():
        try:
            record = read_record(folder)
        except UserError as error:
            yield str(error)
            continue
        if record is None:
            yield f"{folder}: has no record.json, so it is not a finished artifact; move it out of the store"
        elif not is_complete(record):
            yield f"{folder}: files are missing or have changed in size; run its node again"
        elif verify:
            yield from (f"{folder}/{name}: content changed; run its node again with --force" for name in _changed(record))


def _changed(record: Record) -> Iterator[str]:
    for name, expected in record.digests.items():
        if digest(record.path / name) != expected:
            yield name


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
