"""Ranks that wait for one of them: without a limit where that one writes, with the group's limit where all compute."""

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch

from alma_pipeline.job import Input
from alma_pipeline.ml import distributed
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.training import selection
from alma_pipeline.ml.training.loop import _Loop
from alma_pipeline.ml.training.points import resume, state_files
from alma_pipeline.ml.training.points.point_writer import PointWriter
from alma_pipeline.ml.training.selection import CheckpointSelector
from helpers.process_group import in_processes
from helpers.tiny_model import make_base, make_job, make_pairs
from stages.parallel.run import run

LIMIT = datetime.timedelta(seconds=3)


def write_slowly(trainee: Any, state: Any, folder: Path, moved: bool) -> None:
    time.sleep(LIMIT.total_seconds() + 2)
    folder.mkdir(parents=True)


def slow_write(folder: Path) -> None:
    """Rank 0 writes for longer than the group's limit; the other rank reaches its next collective at once."""
    rank = torch.distributed.get_rank()
    distributed.CONNECTING = LIMIT  # a limit for meeting alone
    distributed.waiting_group()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "gather_state", lambda trainee, first: {})
        patch.setattr(selection, "write_checkpoint", write_slowly)
        trainee: Any = None
        world = World(rank, 2, torch.device("cpu"))
        CheckpointSelector(folder, "dev_loss", steps=4).keep(2, {"loss": 1.0}, trainee, world, moved=True)
    assert distributed.all_gather(rank) == [0, 1]
    assert distributed.broadcast(rank) == 0
    assert distributed.all_reduce_sum(torch.tensor([1.0 + rank])).tolist() == [3.0]


def late(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, on rank 0 later than the group's limit."""

    def called(*args: Any) -> Any:
        time.sleep(LIMIT.total_seconds() + 2 if torch.distributed.get_rank() == 0 else 0)
        return function(*args)

    return called


def slow_resume_point(folder: Path) -> None:
    """Rank 0 copies the state that DeepSpeed saves, publishes the point, and reads it again, each for longer than the limit."""
    rank = str(torch.distributed.get_rank())
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    distributed.CONNECTING = LIMIT
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # as our own groups do: it would be compiled
    shared = folder.parent
    base, pairs = str(shared / "base"), str(shared / "pairs")
    inputs = {
        "init": Input("b" * 64, "base", base, {}, base=base, base_key="b" * 64),
        "corpus": Input("c" * 64, "corpus", pairs, {}),
    }
    hardware = {"devices": 2, "launcher": "torchrun", "zero_stage": 1}
    job = make_job(shared / "job", "parallel", inputs, hardware, steps=3, evaluations=1)
    step = _Loop._step

    def step_and_save(self: Any, batches: Any) -> Any:
        done = step(self, batches)
        if done.number == 2:
            self.save()
            raise InterruptedError
        return done

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(_Loop, "_step", step_and_save)
        patch.setattr(state_files, "copy_state", late(state_files.copy_state))
        patch.setattr(PointWriter, "_publish", late(PointWriter._publish))
        run(job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "load_state", late(state_files.load_state))
        assert run(job)["steps"] == 3
    assert distributed.all_gather((job.resume / "step-2/manifest.json").exists()) == [True, True]


def hangs(folder: Path) -> None:
    """A rank that never comes is found by the limit of the group that computes."""
    if torch.distributed.get_rank() == 0:
        with pytest.raises(RuntimeError, match=r"(?i)timed out"):
            distributed.all_reduce_sum(torch.ones(1))
    else:
        time.sleep(LIMIT.total_seconds() + 2)


@pytest.mark.parametrize("work", [slow_write, slow_resume_point, hangs])
def test_ranks_wait_for_a_writer_as_long_as_it_takes(work: Callable[[Path], None], tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_pairs(tmp_path / "pairs")
    in_processes(work, tmp_path, LIMIT)
