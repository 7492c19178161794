"""Resume points: everything a killed training run needs to continue as if uninterrupted. Not usable as checkpoints.

Finds and loads them; `point_writer` writes them.

    <work>/resume/step-N/   DeepSpeed's files, each rank's generator states, and manifest.json, written last

A point is valid only if every file has the size and digest in its manifest. Its files hold numbers and cannot hold code, so that
whoever resumes in a shared store runs nothing of whoever may write to it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import RESUME_SCHEMA
from alma_pipeline.ml import rng
from alma_pipeline.ml.distributed import World, all_gather, barrier, broadcast
from alma_pipeline.ml.training.engine import Engine
from alma_pipeline.ml.training.points.state_files import load_state

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Topology:
    """How the state is split over processes; a point can be resumed only by a run that splits it in the same way."""

    processes: int
    zero_stage: int
    precision: str


@dataclass(frozen=True)
class Point:
    """A verified resume point."""

    folder: Path
    step: int
    progress: dict[str, Any]
    """The loop's plain values, as given to `PointWriter.begin`."""


def newest(root: Path, world: World, topology: Topology) -> Point | None:
    """The latest point whose files match its manifest; None if there is none. A collective call.

    Damaged points are skipped with a printed line. Raises UserError if the point belongs to another topology.
    """
    # One rank lists the folder: on a network disk, ranks may see different states.
    found = [int(path.name[5:]) for path in root.glob("step-*") if path.name[5:].isdigit()] if world.is_first else []
    for step in sorted(broadcast(found), reverse=True):
        folder = root / f"step-{step}"
        manifest = _manifest(folder)
        digests = _digests(folder, world) if manifest else {}
        if manifest and manifest["files"] == digests:
            _check_topology(Topology(**manifest["topology"]), topology)
            return Point(folder, step, manifest["progress"])
        if world.is_first:
            print(f"resume point {folder} is incomplete, damaged or of an earlier version; skipping it", flush=True)
    return None


def restore(point: Point, engine: Engine, world: World) -> None:
    """Load the verified state into the engine, and into this rank's random generators. A collective call."""
    engine.load(point.folder)
    rng.restore(load_state(point.folder / f"generators-{world.rank}.safetensors"))
    barrier()  # a machine may read much longer than another, and what follows has a time limit


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a point, or None if it is missing, damaged or of another version."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return manifest if manifest.get("schema") == RESUME_SCHEMA else None


def _digests(folder: Path, world: World) -> dict[str, list[Any]]:
    """[size, SHA-256] of every file but the manifest, by name. A collective call: the ranks share the reading."""
    barrier()
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    own = {name: _digest(folder / name) for name in names[world.rank :: world.size]}
    return {name: value for part in all_gather(own) for name, value in sorted(part.items())}


def _digest(path: Path) -> list[Any]:
    """Size in bytes, and SHA-256."""
    with open(path, "rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _check_topology(found: Topology, expected: Topology) -> None:
    """Raises UserError that names each difference."""
    if found == expected:
        return
    differing = [
        f"{field.name.replace('_', ' ')} {getattr(found, field.name)}, now {getattr(expected, field.name)}"
        for field in dataclasses.fields(Topology)
        if getattr(found, field.name) != getattr(expected, field.name)
    ]
    raise UserError(
        f"this node has a resume point of a run with {'; '.join(differing)}. "
        "Resume with the same hardware settings, or restart the node with --force NODE"
    )
