"""Ranks that wait for one of them: without a limit where that one writes, with the group's limit where all compute."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alma_pipeline.ml import distributed
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.training import selection
from alma_pipeline.ml.training.selection import CheckpointSelector
from helpers.process_group import in_processes

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


def hangs(folder: Path) -> None:
    """A rank that never comes is found by the limit of the group that computes."""
    if torch.distributed.get_rank() == 0:
        with pytest.raises(RuntimeError, match=r"(?i)timed out"):
            distributed.all_reduce_sum(torch.ones(1))
    else:
        time.sleep(LIMIT.total_seconds() + 2)


@pytest.mark.parametrize("work", [slow_write, hangs])
def test_ranks_wait_for_a_writer_as_long_as_it_takes(work: Callable[[Path], None], tmp_path: Path) -> None:
    in_processes(work, tmp_path, LIMIT)
