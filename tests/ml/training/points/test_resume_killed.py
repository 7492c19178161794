"""Training that is killed, in processes of their own: whenever that is, it ends with the weights of a run that was not."""

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from alma_pipeline.job import Job
from helpers.tiny_model import EVERY_STEP, LORA, digest, lines, logged, make_base, make_documents, make_job

STEPS = 12


class Server:
    """`fork_jobs` in a process of its own."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.fork_jobs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self.answer() == ["ready"]

    def answer(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().split()

    def start(self, job: Job) -> int:
        assert self.process.stdin
        print(job.work, file=self.process.stdin, flush=True)
        return int(self.answer()[1])

    def ended(self) -> int:
        return int(self.answer()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.process.kill()
    found.process.wait()


def wait_for_step(job: Job, step: int) -> None:
    """Until that step is logged, by this worker or one before it: so the killing moves on through training."""
    log, limit = Path(job.work) / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < limit:
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.001)
    raise AssertionError("the worker got nowhere")


def step_seconds(job: Job) -> float:
    """The mean time of a step, with what is done between two."""
    found = lines(job)
    return float((found[-1]["time"] - found[0]["time"]) / STEPS)


def stop_when(pid: int, reached: Callable[[], object]) -> bool:
    """Stop the worker at a moment that is hard to meet by waiting; False where it has ended without one."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        if not stopped(pid):
            return False
        if reached():
            return True
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)
    raise AssertionError("the worker got nowhere")


def stopped(pid: int) -> bool:
    """Wait until a process that was sent a SIGSTOP stands still; False where it has ended."""
    try:
        while (state := Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]) not in "TZ":
            time.sleep(0.0001)
        return state == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


def unfinished_points(job: Job) -> set[Path]:
    return set(job.resume.glob("step-*.tmp-*"))


def newer_points(job: Job, older: set[Path]) -> Callable[[], set[Path]]:
    return lambda: unfinished_points(job) - older


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mono", "group_adapter"])
def test_killed_anywhere_the_weights_are_those_of_an_undisturbed_run(tmp_path: Path, server: Server, kind: str) -> None:
    """B8: killed while a resume point is written, at random moments of training, and while the checkpoint is."""
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_documents(tmp_path / "documents")}
    settings = {"steps": STEPS, "evaluations": 3, "lora": dataclasses.replace(LORA, dropout=0.2)}
    calm, killed = (make_job(tmp_path / name, kind, inputs, EVERY_STEP | {"micro_batch_tokens": 32}, **settings) for name in "ab")
    for job in (calm, killed):
        job.write()
    server.start(calm)
    assert server.ended() == 0
    a_step, luck, met = step_seconds(calm), random.Random(kind), [0, 0, 0]
    for attempt in range(9):
        older = unfinished_points(killed)
        pid = server.start(killed)
        try:
            if attempt == 8:
                met[2] += stop_when(pid, lambda: not killed.out.exists() or any(killed.out.iterdir()))
            elif attempt % 2:
                met[1] += stop_when(pid, newer_points(killed, older))
            else:
                wait_for_step(killed, attempt + 1)
                time.sleep(luck.random() * a_step)
                met[0] += stop_when(pid, lambda: True)
        finally:  # one that stands still would keep the server from the next job for ever
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            code = server.ended()
        if code == 0:
            break
    server.start(killed)
    assert server.ended() == 0
    assert min(met) >= 1, "the killing came too late to test anything"
    assert digest(killed) == digest(calm)
    assert torch.equal(torch.tensor(logged(calm, "train/loss")), torch.tensor(last_of_each_step(killed, "train/loss")))


def last_of_each_step(job: Job, name: str) -> list[float]:
    found = {line["step"]: line["metrics"][name] for line in lines(job) if name in line["metrics"]}
    return [found[step] for step in sorted(found)]
