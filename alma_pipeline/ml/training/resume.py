"""Resume points: all that a killed training run needs to go on as if nothing had happened. Not checkpoints to use.

    <work>/resume/step-N/   DeepSpeed's files, the generators' states of each rank, and manifest.json, written last

A point counts only when every file has the size and digest that its manifest names. Pickles are read from here alone,
and only then.
"""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alma_pipeline import files
from alma_pipeline.errors import UserError
from alma_pipeline.ml import rng
from alma_pipeline.ml.distributed import World, everyone, from_first, wait
from alma_pipeline.ml.training.engine import Engine

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Topology:
    """How the state is cut up; a point can be taken up only by a run that cuts it the same way."""

    processes: int
    zero_stage: int
    precision: str


@dataclass(frozen=True)
class Point:
    """A verified resume point."""

    folder: Path
    step: int
    progress: dict[str, Any]
    """Plain values of the loop, as they were given to `save`."""


def save(root: Path, engine: Engine, world: World, topology: Topology, step: int, progress: dict[str, Any]) -> None:
    """Write the point `root`/step-N and remove older ones. Every rank takes part."""
    final = root / f"step-{step}"
    folder = Path(from_first(str(files.unfinished(final)) if world.is_first else ""))
    engine.save(folder)
    torch.save(rng.states(), folder / f"generators-{world.rank}.pt")
    digests = _digests(folder, world)
    if world.is_first:
        _check_complete(folder, digests, world)
        manifest = {"schema": SCHEMA, "step": step, "topology": dataclasses.asdict(topology), "progress": progress}
        text = json.dumps(manifest | {"files": digests}, indent=1)
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        files.finish(folder, final)
        for older in root.glob("step-*"):
            if older != final:
                shutil.rmtree(older)
    wait()


def newest(root: Path, world: World, topology: Topology) -> Point | None:
    """The highest point whose files are all what its manifest says; None when there is none.

    Damaged ones are passed over, and said to be. Raises UserError where the point was made by another topology.
    """
    found = [int(path.name[5:]) for path in root.glob("step-*") if path.name[5:].isdigit()] if world.is_first else []
    for step in sorted(from_first(found), reverse=True):
        folder = root / f"step-{step}"
        manifest = _manifest(folder)
        digests = _digests(folder, world) if manifest else {}
        if manifest and manifest["files"] == digests:
            _check_topology(Topology(**manifest["topology"]), topology)
            return Point(folder, step, manifest["progress"])
        if world.is_first:
            print(f"resume point {folder} is incomplete or damaged; passing it over", flush=True)
    return None


def restore(point: Point, engine: Engine, world: World) -> None:
    """Put the verified state into the engine and into this rank's random generators."""
    engine.load(point.folder)
    # Pickled by `save` in this very folder, and its digest has just been compared.
    rng.restore(torch.load(point.folder / f"generators-{world.rank}.pt", weights_only=False))


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return manifest if manifest.get("schema") == SCHEMA else None


def _digests(folder: Path, world: World) -> dict[str, list[Any]]:
    """Name to [size, SHA-256] of every file but the manifest; the reading is shared out over the ranks."""
    wait()
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    own = {name: _digest(folder / name) for name in names[world.rank :: world.size]}
    return {name: value for part in everyone(own) for name, value in sorted(part.items())}


def _digest(path: Path) -> list[Any]:
    with open(path, "rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _check_complete(folder: Path, files: dict[str, list[Any]], world: World) -> None:
    lacking = [rank for rank in range(world.size) if f"generators-{rank}.pt" not in files]
    if lacking:
        raise UserError(f"{folder} holds no files of the processes {lacking}; the store must be on a disk that all nodes share")


def _check_topology(found: Topology, wanted: Topology) -> None:
    if found == wanted:
        return
    differing = [
        f"{field.name.replace('_', ' ')} {getattr(found, field.name)}, now {getattr(wanted, field.name)}"
        for field in dataclasses.fields(Topology)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]
    raise UserError(
        f"this node was left unfinished by a run with {'; '.join(differing)}. "
        "Go on with the hardware settings of then, or start the node again with --force NODE"
    )
