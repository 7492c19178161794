"""Work in two processes of one torch.distributed group."""

import datetime
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch

MINUTES = datetime.timedelta(minutes=10)


def in_processes(work: Callable[[Path], None], folder: Path, limit: datetime.timedelta = MINUTES) -> None:
    """Run `work` in two processes of one group, whose collectives wait `limit` at most.

    They are forks of a server that has imported the libraries and opened no group: the fork of a process whose earlier tests
    opened one inherits locks of threads that it does not have.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.search_model"])
    processes = [context.Process(target=_join, args=(work, rank, folder, limit), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def _join(work: Callable[[Path], None], rank: int, folder: Path, limit: datetime.timedelta) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=limit)
    work(folder / f"rank{rank}")
    torch.distributed.destroy_process_group()
