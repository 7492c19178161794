"""Decoding in several processes: each takes a share of the prompts, all get all results."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from search_bed import LIMITS, PROMPTS, SAMPLING, make

from alma_pipeline.ml.decoding import decode


def in_processes(work: Callable[[Path], None], folder: Path) -> None:
    """Run `work` in two processes of one group. They are started afresh: the fork of a process whose earlier tests opened
    a group inherits locks of threads that it does not have."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_join, args=(work, rank, folder), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def _join(work: Callable[[Path], None], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    work(folder / f"rank{rank}")
    torch.distributed.destroy_process_group()


def _shared(path: Path) -> None:
    model = make()
    shared = decode.beam_search(model, PROMPTS, 3, LIMITS), decode.sample(model, PROMPTS, SAMPLING, LIMITS)
    many = dict(enumerate([[0]] * 18))
    split = len(decode._share(many, model))
    for parameter in model.parameters():
        parameter.ds_id = 0  # type: ignore[attr-defined]  # what DeepSpeed marks a ZeRO-3 parameter with
    torch.save((shared, split, len(decode._share(many, model))), path)


def test_processes_share_out_the_work_and_all_get_the_results(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    in_processes(_shared, tmp_path)
    model = make()
    expected = decode.beam_search(model, PROMPTS, 3, LIMITS), decode.sample(model, PROMPTS, SAMPLING, LIMITS)
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}") == (expected, 9, 18)
