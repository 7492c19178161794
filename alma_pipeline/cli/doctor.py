"""`doctor`: checks the environment and the store. Repairs and deletes nothing."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import LiteralConsole
from alma_pipeline.files import digest, owner
from alma_pipeline.heartbeat import STILL_SECONDS
from alma_pipeline.mounts import lock_note, mount_of
from alma_pipeline.paths import COMET_PYTHON, VLLM_PYTHON, store_root
from alma_pipeline.store.damage import remedy
from alma_pipeline.store.record import LOGS, Record, size_difference
from alma_pipeline.store.store import Store
from alma_pipeline.tracking import database, undelivered
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
    problems = [*environment(), *store_problems(store, verify), *tracking_problems(root)]
    free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free
    console.print_line(f"store {root}: {len(store.folders())} artifacts, {size(free)} of disk free")
    for name in NEEDED:
        console.print_line(f"{name} {_version(name) or 'missing'}")
    console.print_line(f"COMET {COMET_PYTHON if COMET_PYTHON.is_file() else 'not set up; `make comet` does that'}")
    console.print_line(f"vLLM {VLLM_PYTHON if VLLM_PYTHON.is_file() else 'not set up; `make vllm` does that'}")
    console.print_line(f"cores {len(os.sched_getaffinity(0))}")
    for text in notes(root):
        console.print_line(text)
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


def notes(root: Path, mounts: str | None = None) -> Iterator[str]:
    """What is no problem, but explains what a run may wait for. `mounts`: the text of a mount table, for that of this machine."""
    mount = mount_of(root.resolve(), mounts)
    if mount and (text := lock_note(mount)):
        yield (
            f"note: {text}. Between machines heartbeats in {root / 'locks'} serve instead: after a process was killed on another "
            f"machine, the next one waits {STILL_SECONDS:.0f} s"
        )


def store_problems(store: Store, verify: bool) -> Iterator[str]:
    """Artifacts with missing or changed files, and folders without a record."""
    yield from store.unreadable().values()
    for record in store.records():
        yield from _file_problems(record, verify)


def _file_problems(record: Record, verify: bool) -> Iterator[str]:
    """Files, logs included, that are missing or have changed in size; with `verify` every file is read and compared."""
    for name in record.files:
        if text := size_difference(record, name):
            yield f"{record.path / name} {text}{_advice(record, name)}"
        elif verify:
            try:
                changed = digest(record.path / name) != record.digests[name]
            except OSError as error:
                found = owner(record.path / name)
                yield f"{record.path / name} cannot be read ({error.strerror}); it belongs to {found}, who can allow it"
                continue
            if changed:
                yield f"{record.path / name} has changed content{_advice(record, name)}"


def _advice(record: Record, name: str) -> str:
    return ": a log, which nothing but reports needs" if name in LOGS else f". {remedy(record)}"


def tracking_problems(root: Path) -> Iterator[str]:
    """A database that the installed MLflow cannot use or that names another folder, and records that were not delivered."""
    uri = database.tracking_uri(root)
    if problem := database.schema_problem(uri):
        yield problem
    elif uri == database.own_uri(root) and (root / database.FILE).is_file():
        for _, place in database.misplaced(root):
            yield f"{root / database.FILE} names {place}, so the store was moved or copied; the next run corrects it"
    yield from undelivered.waiting_lines(root)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
