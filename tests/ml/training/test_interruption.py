"""Training that ends between two steps, to be continued by another worker."""

import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from alma_pipeline.execution import worker
from alma_pipeline.job import Again, Job
from alma_pipeline.ml.training.engine import Engine
from alma_pipeline.store.store import Store
from helpers.process_group import in_processes
from helpers.tiny_model import digest, logged, make_base, make_documents, make_job, make_pairs
from stages.mono.run import run as run_mono
from stages.parallel.run import run as run_parallel

ASKED_AFTER = 3
PAIR = {"devices": 2, "launcher": "torchrun", "zero_stage": 2}


def signalled(number: int) -> Any:
    """As `Engine.step`, but this process gets a signal during a step of its own."""
    step, steps = Engine.step, [0]

    def signalling(engine: Engine, rate: float) -> None:
        step(engine, rate)
        steps[0] += 1
        if steps[0] == ASKED_AFTER:
            os.kill(os.getpid(), number)

    return mock.patch.object(Engine, "step", signalling)


def full_above(budget: int, job: Job, at: int = 1) -> Any:
    """As `Engine.backward`, but the device is full if the budget is larger, from a step on."""
    backward, calls = Engine.backward, [0]

    def filling(engine: Engine, loss: torch.Tensor) -> None:
        calls[0] += 1
        if calls[0] >= at and job.hardware.micro_batch_tokens > budget:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        backward(engine, loss)

    return mock.patch.object(Engine, "backward", filling)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    return {"init": make_base(tmp_path / "base"), "corpus": make_documents(tmp_path / "documents")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_training_after_its_step_and_the_weights_do_not_know(
    tmp_path: Path, parts: dict[str, Any], number: int
) -> None:
    calm, asked = (make_job(tmp_path / name, "mono", parts) for name in "ab")
    run_mono(calm)
    before = signal.getsignal(number)
    with signalled(number), pytest.raises(Again, match=f"interrupted by {signal.Signals(number).name} after step 3"):
        run_mono(asked)
    assert signal.getsignal(number) == before
    assert [path.name for path in asked.resume.iterdir()] == ["step-3"]
    run_mono(asked)
    assert logged(asked, "train/loss") == logged(calm, "train/loss")
    assert digest(asked) == digest(calm)


def test_a_notice_is_taken_after_one_step(tmp_path: Path, parts: dict[str, Any]) -> None:
    """Also one that came while the worker started: each start gets a node further."""
    job = make_job(tmp_path / "a", "mono", parts)
    job.notice.touch()
    with pytest.raises(Again, match="interrupted by a notice after step 1"):
        run_mono(job)
    with pytest.raises(Again, match="after step 2"):
        run_mono(job)


def test_a_notice_in_the_last_step_comes_too_late(tmp_path: Path, parts: dict[str, Any]) -> None:
    job = make_job(tmp_path / "a", "mono", parts, steps=1)
    job.notice.touch()
    assert run_mono(job)["steps"] == 1


def rank_of_two(folder: Path) -> None:
    """A worker: the first of two runs of the node is interrupted by a signal to rank 1."""
    rank, place = int(folder.name[-1]), folder.parent
    # The worker opens its own group, as under a launcher.
    torch.distributed.destroy_process_group()
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=(place / "port").read_text(), GLOO_SOCKET_IFNAME="lo")
    codes = []
    for case in ("calm", "asked", "asked"):
        found = json.loads((place / f"{case}.json").read_text())
        work = Path(found["work"])
        interrupted = case == "asked" and 4 not in codes and rank == 1
        with signalled(signal.SIGUSR1) if interrupted else contextlib.nullcontext():
            codes.append(worker.main(work, found["token"]))
    (place / f"codes-{rank}.json").write_text(json.dumps(codes))
    # A process that runs several jobs leaves the folder of the last.
    os.chdir(place)


def test_a_signal_to_one_rank_ends_all_of_them_after_the_same_step(tmp_path: Path, parts: dict[str, Any]) -> None:
    store, jobs, held = Store(tmp_path / "store"), {}, []
    for number, case in enumerate(("calm", "asked")):
        work = store.begin(case, f"{number}" * 64)
        held.append(work)
        job = jobs[case] = make_job(work.path, "mono", parts, PAIR)
        job.write()
        (tmp_path / f"{case}.json").write_text(json.dumps({"work": str(work.path), "token": work.token}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    in_processes(rank_of_two, tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"codes-{rank}.json").read_text()) == [0, worker.EXIT_AGAIN, 0]
    said = json.loads((Path(jobs["asked"].work) / "again-1.json").read_text())
    assert said == {"reason": "interrupted by SIGUSR1 after step 3", "signal": signal.SIGUSR1, "micro_batch_tokens": 0}
    assert "a notice" in (Path(jobs["asked"].work) / "again-0.json").read_text(), "rank 0 has only heard of it"
    assert (jobs["asked"].resume / "step-3" / "manifest.json").exists()
    assert logged(jobs["asked"], "train/loss") == logged(jobs["calm"], "train/loss")
    assert digest(jobs["asked"]) == digest(jobs["calm"])


def test_on_a_full_device_half_the_budget_gives_the_same_weights(tmp_path: Path) -> None:
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_pairs(tmp_path / "pairs")}
    small, large = (
        make_job(tmp_path / name, "parallel", inputs, {"micro_batch_tokens": n}) for name, n in (("a", 32), ("b", 64))
    )
    run_parallel(small)
    with full_above(32, large), pytest.raises(Again, match="the device ran out of memory") as caught:
        run_parallel(large)
    assert caught.value.micro_batch_tokens == 32
    again = make_job(tmp_path / "b", "parallel", inputs, {"micro_batch_tokens": 32})
    run_parallel(again)
    assert digest(again) == digest(small)


def test_a_budget_of_the_longest_example_is_the_last(tmp_path: Path) -> None:
    """Then the error is that of a device that is too small, with advice."""
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_pairs(tmp_path / "pairs")}
    budgets = [64]
    for _ in range(9):
        job = make_job(tmp_path / "a", "parallel", inputs, {"micro_batch_tokens": budgets[-1]})
        with full_above(0, job), pytest.raises((Again, torch.OutOfMemoryError)) as caught:
            run_parallel(job)
        if not isinstance(caught.value, Again):
            break
        budgets.append(caught.value.micro_batch_tokens)
    longest = budgets[-1]
    assert budgets == [64, 32, longest] and 16 <= longest < 32


def test_any_other_error_passes(tmp_path: Path, parts: dict[str, Any]) -> None:
    job = make_job(tmp_path / "a", "mono", parts)
    with mock.patch.object(Engine, "step", side_effect=RuntimeError("CUDA error: an illegal memory access")):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            run_mono(job)
