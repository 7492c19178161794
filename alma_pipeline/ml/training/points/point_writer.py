"""Writes resume points while training continues, one at a time. What a point is, and which one counts, is in `resume`.

`begin` copies the state in host memory and returns; a thread of each rank then writes that rank's files. The thread touches no
tensor of the model and calls no collective operation. `complete` waits for the threads of all ranks, and makes the point count.
"""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alma_pipeline import files
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import RESUME_SCHEMA
from alma_pipeline.ml import rng
from alma_pipeline.ml.distributed import World, all_gather, barrier, broadcast
from alma_pipeline.ml.training.engine import Engine
from alma_pipeline.ml.training.points.resume import MANIFEST, Topology
from alma_pipeline.ml.training.points.snapshot import HostBuffer, Snapshot
from alma_pipeline.ml.training.points.state_files import copy_state

Digests = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256, by file name."""


@dataclass(frozen=True)
class _Unfinished:
    """A point that is being written."""

    folder: Path
    step: int
    progress: dict[str, Any]
    began: float
    files: Future[Digests]
    """This rank's files, once they are on disk."""


class PointWriter:
    """Writes the resume points of a run into `root`. All ranks call `begin` and `complete` at the same steps."""

    def __init__(self, root: Path, engine: Engine, world: World, topology: Topology) -> None:
        self.root, self.engine, self.world, self.topology = root, engine, world, topology
        self.newest = -1
        """Step of the last point that this run completed; -1 before the first."""
        self._unfinished: _Unfinished | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a point has begun and is not complete; the same on every rank."""
        return self._unfinished is not None

    @property
    def is_writing(self) -> bool:
        """Whether this rank's files of a point are not yet on disk. Ranks differ."""
        return self._unfinished is not None and not self._unfinished.files.done()

    def begin(self, step: int, progress: dict[str, Any]) -> None:
        """Copy the state after `step`, and start to write it as the point step-N. A collective call; no point may be pending.

        `progress` holds the loop's plain values, JSON as they are now.
        """
        began = time.perf_counter()
        # All ranks write into the same unfinished folder, whose name rank 0 chooses.
        folder = Path(broadcast(str(self._new_folder(step)) if self.world.is_first else ""))
        copies = self.engine.copy(folder)
        copies[folder / f"generators-{self.world.rank}.safetensors"] = copy_state(rng.states(), HostBuffer())
        self._unfinished = _Unfinished(folder, step, progress, began, _in_thread(copies))

    def _new_folder(self, step: int) -> Path:
        # What a killed run left unfinished would take the room of a third point.
        for left in self.root.glob("step-*.tmp-*"):
            shutil.rmtree(left)
        return files.new_folder_beside(self.root / f"step-{step}")

    def complete(self) -> float:
        """Wait until all ranks have written their files, make the point count, and delete older ones. A collective call.

        Returns the seconds since `begin`. Raises what stopped this rank's thread, as a full disk; PipelineError on the others.
        """
        unfinished, self._unfinished = self._unfinished, None
        assert unfinished
        error = unfinished.files.exception()  # waits for the thread
        own = {} if error else unfinished.files.result()
        found = all_gather((own, f"{type(error).__name__}: {error}" if error else ""))
        if error:
            raise error
        for rank, (_, problem) in enumerate(found):
            if problem:
                raise PipelineError(
                    f"process {rank} could not write its files of the resume point {unfinished.folder}: {problem}"
                )
        if self.world.is_first:
            self._publish(unfinished, {name: value for part, _ in found for name, value in sorted(part.items())})
        barrier()
        self.newest = unfinished.step
        return time.perf_counter() - unfinished.began

    def _publish(self, point: _Unfinished, digests: Digests) -> None:
        """Write the manifest, without which a folder does not count, and give the folder its name."""
        _check_visible(point.folder, digests, self.world)
        manifest = {
            "schema": RESUME_SCHEMA,
            "step": point.step,
            "topology": dataclasses.asdict(self.topology),
            "progress": point.progress,
            "files": digests,
        }
        (point.folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        final = self.root / f"step-{point.step}"
        files.put_in_place(point.folder, final)
        # Only now is the older point no longer needed.
        for older in self.root.glob("step-*"):
            if older != final:
                shutil.rmtree(older)


def _in_thread(copies: Mapping[Path, Snapshot]) -> Future[Digests]:
    """Write the copies in a thread. It does not outlive the process: a run that fails does not wait for it."""
    future: Future[Digests] = Future()

    def work() -> None:
        try:
            future.set_result(_write(copies))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="resume point", daemon=True).start()
    return future


def _write(copies: Mapping[Path, Snapshot]) -> Digests:
    """Write the copies; then they and their entries in the folder are on disk. Each rank does so: no other machine can."""
    found = {path.name: copy.write(path) for path, copy in copies.items()}
    for folder in {path.parent for path in copies}:
        files.sync(folder)
    return found


def _check_visible(folder: Path, digests: Digests, world: World) -> None:
    """Raises UserError if some rank's files are not visible to the first one."""
    missing = [rank for rank in range(world.size) if not (folder / f"generators-{rank}.safetensors").exists()]
    if missing:
        raise UserError(f"{folder} has no files of the processes {missing}; the store must be on a disk that all machines share")
    for name, (size, _) in digests.items():
        if (found := (folder / name).stat().st_size) != size:
            raise PipelineError(f"{folder / name} has {found} bytes after {size} were written; check the disk of the store")
