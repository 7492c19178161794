"""`gc`: lists what in the store can be deleted and the space this frees; deletes with --delete only.

Without `--keep`, that is what no plan can use: artifacts that a forced run replaced, and leftovers of killed jobs. With `--keep`,
also every artifact that the kept ones do not need. It never deletes what a kept artifact was built from or is loaded with, and
nothing during a run, which may need any artifact.
"""

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.heartbeat import held_among
from alma_pipeline.paths import store_root
from alma_pipeline.plan.node import OUTPUTS, TEMPLATES
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import size


@dataclass(frozen=True)
class Candidate:
    """A folder that can be deleted."""

    path: Path
    why: str
    bytes: int


def main(arguments: Arguments) -> int:
    """List, and with `--delete` delete. Raises UserError for a name that is not in the store, and during a run."""
    store, console = Store(store_root()), LiteralConsole()
    kept = [find_artifact(store, name) for name in arguments.keep]
    found = list(candidates(store, kept))
    for candidate in found:
        console.print_line(f"{size(candidate.bytes):>10}  {candidate.path.relative_to(store.root)}  ({candidate.why})")
    freed = size(sum(candidate.bytes for candidate in found))
    if not found:
        console.print_line(
            "nothing can be deleted" + ("" if kept else "; name artifacts to keep with --keep NAME|KEY, and the rest can be")
        )
    elif not arguments.delete:
        console.print_line(f"{freed} can be freed; --delete deletes the above")
    else:
        delete(store, found)
        console.print_line(f"{freed} freed")
    return 0


def candidates(store: Store, kept: list[Record]) -> Iterator[Candidate]:
    """Folders that can be deleted; artifacts only if some are to be kept. Raises UserError for a damaged record."""
    for path in _folders(store.root / "replaced"):
        yield _candidate(path, "replaced by a forced run")
    aside = _folders(store.root / "aside")
    busy = {path.parents[1] for path in held_among((lock for path in aside for lock in _locks(path / "locks")), _print)}
    for path in aside:
        if path not in busy:
            yield _candidate(path, "left by a job that ended early")
    if not kept:
        return
    # What such an artifact depends on is unknown.
    if problems := store.unreadable():
        raise UserError("\n".join(problems.values()))
    records = store.records()
    needed = reachable(store, records, kept)
    for record in records:
        if record.key not in needed:
            yield _candidate(record.path, f"not needed by {', '.join(sorted({one.name for one in kept}))}")


def reachable(store: Store, records: list[Record], kept: list[Record]) -> set[str]:
    """Keys of the kept artifacts, of all that these and unfinished nodes depend on, and of evaluations of kept checkpoints."""
    by_key = {record.key: record for record in records}
    needed: set[str] = set()
    # Walk down to what is needed, then add what belongs to it; that can need more, so repeat until nothing is added.
    frontier = [*(record.key for record in kept), *_unfinished(store)]
    while True:
        while frontier:
            key = frontier.pop()
            if key not in needed:
                needed.add(key)
                frontier += _dependencies(by_key[key]) if key in by_key else []
        frontier = [record.key for record in records if record.key not in needed and _belongs(record, needed)]
        if not frontier:
            return needed


def _dependencies(record: Record) -> list[str]:
    """What an artifact was built from and is loaded with. An alias depends on its target alone, not on its node's inputs."""
    if record.alias_of:
        return [record.alias_of]
    loading = record.checkpoint
    adapters = [loading["base_key"], *loading["adapter_keys"]] if loading else []
    return [*record.payload["inputs"].values(), *adapters]


def _belongs(record: Record, needed: set[str]) -> bool:
    """Whether it is an alias of a needed artifact or evaluates one: these are small, and later plans look for them."""
    if record.alias_of:
        return record.alias_of in needed
    inputs = set(record.payload["inputs"].values())
    return record.name.rpartition(".")[2] in (*TEMPLATES, OUTPUTS) and bool(inputs & needed) and _evaluates(record, needed)


def _evaluates(record: Record, needed: set[str]) -> bool:
    inputs = record.payload["inputs"]
    return inputs.get("checkpoint", inputs.get("hypotheses", inputs.get("test"))) in needed


def _unfinished(store: Store) -> Iterator[str]:
    """Keys of the inputs of unfinished nodes, whose resume points are useless without them."""
    for path in (store.root / "work").glob("*/job.json"):
        try:
            inputs = json.loads(path.read_text(encoding="utf-8"))["inputs"].values()
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}), so what it needs is unknown; nothing is deleted") from error
        for given in inputs:
            yield from (given["key"], *filter(None, [given["base_key"]]), *given["adapter_keys"])


def delete(store: Store, found: list[Candidate]) -> None:
    """Move each folder away with one rename, then delete its files. Raises UserError during a run and in a read-only store."""
    store.check_writable()
    busy = [path.name for path in held_among(_locks(store.root / "locks"), _print)]
    if busy:
        raise UserError(f"a run is active in {store.root} ({', '.join(busy)}) and may need any artifact; wait until it ends")
    trash = store.root / "replaced"
    for candidate in found:
        doomed = candidate.path
        if doomed.parent != trash:
            trash.mkdir(exist_ok=True)
            # If this process is killed, no half artifact is left in its place.
            doomed = doomed.rename(trash / f"{doomed.name}-gc-{secrets.token_hex(4)}")
        shutil.rmtree(doomed)


def _candidate(path: Path, why: str) -> Candidate:
    return Candidate(path, why, sum(file.lstat().st_size for file in path.rglob("*") if file.is_file()))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _locks(folder: Path) -> list[Path]:
    """Lock files of owners and workers; a worker can outlive its owner for a moment."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".owner", ".worker")) if folder.is_dir() else []


def _print(text: str) -> None:
    LiteralConsole().print_line(text)
