"""Which of a run's checkpoints is kept: the best by the node's rule.

The best so far is on disk, and the one that the newest resume point knows as the best: a run that goes on from there
needs it.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alma_pipeline import files
from alma_pipeline.errors import PipelineError
from alma_pipeline.ml.distributed import World, wait
from alma_pipeline.ml.models.checkpoints import gather, write
from alma_pipeline.ml.models.load import Trainee


@dataclass(frozen=True)
class Kept:
    """A checkpoint that was worth writing."""

    step: int
    measures: dict[str, float]
    """Of the dev set."""


class Selection:
    """The best checkpoint so far, in `<work>/best-<step>`."""

    def __init__(self, work: Path, choose_by: str, steps: int) -> None:
        """`steps` is the length of the run."""
        self.work, self.choose_by, self.steps = work, choose_by, steps
        self.kept: Kept | None = None
        self._noted: Kept | None = None

    def take_up(self, state: dict[str, Any] | None, world: World) -> None:
        """Go on from what `state` was in the newest resume point, None without one."""
        self.kept = Kept(**state) if state else None
        self.note(world)

    def note(self, world: World) -> None:
        """The newest resume point now knows what is kept."""
        self._noted = self.kept
        self._tidy(world)

    @property
    def state(self) -> dict[str, Any] | None:
        """Plain values to resume from."""
        return asdict(self.kept) if self.kept else None

    def is_better(self, step: int, measures: dict[str, float]) -> bool:
        """Whether the weights after `step` are to be kept; an equal later one is not."""
        if self.choose_by == "last":
            return step == self.steps
        if self.kept is None:
            return True
        if self.choose_by == "dev_score":
            return measures["score"] > self.kept.measures["score"]
        return measures["loss"] < self.kept.measures["loss"]

    def keep(self, step: int, measures: dict[str, float], trainee: Trainee, world: World, moved: bool) -> None:
        """Write the current weights as the best. Every rank takes part."""
        state = gather(trainee, world.is_first)
        if world.is_first:
            write(trainee, state, self._folder(step), moved)
        self.kept = Kept(step, measures)
        self._tidy(world)

    def _tidy(self, world: World) -> None:
        needed = {self._folder(kept.step) for kept in (self.kept, self._noted) if kept}
        if world.is_first:
            for folder in set(self.work.glob("best-*")) - needed:
                shutil.rmtree(folder)
        wait()

    def publish(self, out: Path, world: World) -> Kept:
        """Put the best checkpoint into `out`."""
        if self.kept is None or not self._folder(self.kept.step).is_dir():
            raise PipelineError(f"no checkpoint was kept in {self.work}; expected best-<step>")
        if world.is_first:
            files.copy(self._folder(self.kept.step), out)
        wait()
        return self.kept

    def _folder(self, step: int) -> Path:
        return self.work / f"best-{step}"
