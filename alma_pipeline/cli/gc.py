"""`gc`: what in the store can go and how much that frees; deletes only when told to.

Without `--keep` only what no plan can use: artifacts that a forced run replaced, and leftovers of jobs that were killed.
With `--keep` also every artifact that the kept ones do not need. Never anything that a kept artifact was made from or is
loaded with, and nothing while something is being made: a run may need any of it.
"""

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import Screen
from alma_pipeline.errors import UserError
from alma_pipeline.files import lock_file
from alma_pipeline.paths import store_root
from alma_pipeline.plan.node import TEMPLATES
from alma_pipeline.store.lookup import find
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import size


@dataclass(frozen=True)
class Candidate:
    """A folder that can go."""

    path: Path
    why: str
    bytes: int


def main(arguments: Arguments) -> int:
    """List, and with `--delete` delete. Raises UserError for a name that is not in the store, and during a run."""
    store, console = Store(store_root()), Screen()
    kept = [find(store, name) for name in arguments.keep]
    found = list(candidates(store, kept))
    for candidate in found:
        console.say(f"{size(candidate.bytes):>10}  {candidate.path.relative_to(store.root)}  ({candidate.why})")
    freed = size(sum(candidate.bytes for candidate in found))
    if not found:
        console.say(
            "nothing can go" + ("" if kept else "; --keep NAME|KEY says which artifacts are wanted, the others can go then")
        )
    elif not arguments.delete:
        console.say(f"{freed} can go; --delete deletes it")
    else:
        delete(store, found)
        console.say(f"{freed} freed")
    return 0


def candidates(store: Store, kept: list[Record]) -> Iterator[Candidate]:
    """Folders that can go, artifacts only where some are said to be kept. Raises UserError for a damaged record."""
    for path in _folders(store.root / "replaced"):
        yield _candidate(path, "replaced by a forced run")
    for path in _folders(store.root / "aside"):
        if not _locked(path):
            yield _candidate(path, "left by a job that ended early")
    if not kept:
        return
    records = store.records()
    needed = wanted(store, records, kept)
    for record in records:
        if record.key not in needed:
            yield _candidate(record.path, f"not needed by {', '.join(sorted({one.name for one in kept}))}")


def wanted(store: Store, records: list[Record], kept: list[Record]) -> set[str]:
    """Keys of the kept artifacts, of all that these and unfinished nodes stand on, and of the evaluations of kept checkpoints."""
    by_key = {record.key: record for record in records}
    needed: set[str] = set()
    frontier = [*(record.key for record in kept), *_unfinished(store)]
    while True:
        while frontier:
            key = frontier.pop()
            if key not in needed:
                needed.add(key)
                frontier += _below(by_key[key]) if key in by_key else []
        frontier = [record.key for record in records if record.key not in needed and _belongs(record, needed)]
        if not frontier:
            return needed


def _below(record: Record) -> list[str]:
    """What an artifact was made from and is loaded with; an alias was made from nothing, whatever its node would have read."""
    if record.alias_of:
        return [record.alias_of]
    loading = record.checkpoint
    adapters = [loading["base_key"], *loading["adapter_keys"]] if loading else []
    return [*record.payload["inputs"].values(), *adapters]


def _belongs(record: Record, needed: set[str]) -> bool:
    """Evaluations of kept checkpoints and on kept test sets, and aliases: small, and lost to whoever looks for them later."""
    if record.alias_of:
        return record.alias_of in needed
    inputs = set(record.payload["inputs"].values())
    return record.name.rpartition(".")[2] in (*TEMPLATES, "outputs") and bool(inputs & needed) and _evaluates(record, needed)


def _evaluates(record: Record, needed: set[str]) -> bool:
    inputs = record.payload["inputs"]
    return inputs.get("checkpoint", inputs.get("hypotheses", inputs.get("test"))) in needed


def _unfinished(store: Store) -> Iterator[str]:
    """Inputs of nodes that were begun: their resume points would be worth nothing without them."""
    for path in (store.root / "work").glob("*/job.json"):
        try:
            inputs = json.loads(path.read_text(encoding="utf-8"))["inputs"].values()
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); nothing is deleted while it is not known what it needs") from error
        for given in inputs:
            yield from (given["key"], *filter(None, [given["base_key"]]), *given["adapter_keys"])


def delete(store: Store, found: list[Candidate]) -> None:
    """Each folder by one rename out of its place, then its files. Raises UserError while something is being made."""
    busy = [path.name for path in _locks(store.root / "locks") if _is_held(path)]
    if busy:
        raise UserError(
            f"something is being made in {store.root} ({', '.join(busy)}), and may need any artifact; wait for it to end"
        )
    trash = store.root / "replaced"
    for candidate in found:
        doomed = candidate.path
        if doomed.parent != trash:
            trash.mkdir(exist_ok=True)
            doomed = doomed.rename(
                trash / f"{doomed.name}-gc-{secrets.token_hex(4)}"
            )  # never a half artifact, even if we are killed
        shutil.rmtree(doomed)


def _candidate(path: Path, why: str) -> Candidate:
    return Candidate(path, why, sum(file.lstat().st_size for file in path.rglob("*") if file.is_file()))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _locks(folder: Path) -> list[Path]:
    """Of owners and of workers: a worker can outlive its owner for a moment."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".owner", ".worker")) if folder.is_dir() else []


def _locked(aside: Path) -> bool:
    return any(_is_held(path) for path in _locks(aside / "locks"))


def _is_held(path: Path) -> bool:
    lock = lock_file(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
