"""Keeps a run's best checkpoint by the node's rule.

On disk are the best so far, and those known to the newest resume point and to the one that is being written: a run that
resumes from there needs it.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alma_pipeline import files
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.ml.distributed import World, barrier, broadcast
from alma_pipeline.ml.models.checkpoints import gather_state, write_checkpoint
from alma_pipeline.ml.models.open import TrainableModel


@dataclass(frozen=True)
class BestCheckpoint:
    """The step and dev measures of a checkpoint on disk."""

    step: int
    measures: dict[str, float]
    """Of the dev set."""
    digests: dict[str, str]
    """SHA-256 by file name, as the files were written."""


class CheckpointSelector:
    """The best checkpoint so far, in `<work>/best-<step>`."""

    def __init__(self, work: Path, select_by: str, steps: int) -> None:
        """`steps` is the length of the run."""
        self.work, self.select_by, self.steps = work, select_by, steps
        self.kept: BestCheckpoint | None = None
        self._in_resume_point: BestCheckpoint | None = None
        self._in_unfinished_point: BestCheckpoint | None = None

    def resume(self, state: dict[str, Any] | None, world: World) -> None:
        """Restore `state` from the newest resume point; None without one."""
        self.kept = BestCheckpoint(**state) if state else None
        self.mark_begun()
        self.mark_complete(world)

    def mark_begun(self) -> None:
        """Record that a resume point is being written that knows the current best."""
        self._in_unfinished_point = self.kept

    def mark_complete(self, world: World) -> None:
        """Record that the resume point that was being written is the newest. A collective call."""
        self._in_resume_point = self._in_unfinished_point
        self._delete_others(world)

    @property
    def state(self) -> dict[str, Any] | None:
        """Plain values to resume from."""
        return asdict(self.kept) if self.kept else None

    def is_better(self, step: int, measures: dict[str, float]) -> bool:
        """Whether to keep the weights after `step`; on a tie the earlier ones stay."""
        if self.select_by == "last":
            return step == self.steps
        if self.kept is None:
            return True
        if self.select_by == "dev_score":
            return measures["score"] > self.kept.measures["score"]
        return measures["loss"] < self.kept.measures["loss"]

    def keep(self, step: int, measures: dict[str, float], trainee: TrainableModel, world: World, moved: bool) -> None:
        """Write the current weights as the best. A collective call."""
        state, digests = gather_state(trainee, world.is_first), {}
        if world.is_first:
            write_checkpoint(trainee, state, self._folder(step), moved)
            digests = _digests(self._folder(step))
        self.kept = BestCheckpoint(step, measures, broadcast(digests))
        self._delete_others(world)

    def _delete_others(self, world: World) -> None:
        """Delete checkpoints that neither this run nor its resume point needs. A collective call."""
        known = (self.kept, self._in_resume_point, self._in_unfinished_point)
        needed = {self._folder(kept.step) for kept in known if kept}
        if world.is_first:
            for folder in set(self.work.glob("best-*")) - needed:
                shutil.rmtree(folder)
        barrier()

    def publish(self, out: Path, world: World) -> BestCheckpoint:
        """Copy the best checkpoint to `out`. A collective call.

        Raises PipelineError if none was kept, and UserError if its files are no longer as they were written: an attempt may be
        resumed days later.
        """
        folder = self._folder(self.kept.step) if self.kept else None
        if self.kept is None or folder is None or not folder.is_dir():
            raise PipelineError(f"no checkpoint was kept in {self.work}; expected best-<step>")
        if world.is_first:
            found, written = _digests(folder), self.kept.digests
            if changed := [name for name in {**written, **found} if found.get(name) != written.get(name)]:
                raise UserError(
                    f"{folder / changed[0]} is no longer what was written there (its SHA-256 differs); start the node again with "
                    "--force NODE"
                )
            files.link_or_copy_tree(folder, out)
        barrier()
        return self.kept

    def _folder(self, step: int) -> Path:
        return self.work / f"best-{step}"


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: files.digest(path) for path in sorted(folder.iterdir())}
