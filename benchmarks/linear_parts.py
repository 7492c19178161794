"""One part of `linear.py` in a process of its own, on a job it has written: `python linear_parts.py PART JOB.json TIMES`.

The last line of standard output is what was measured, as JSON: seconds of one time, tokens, and bytes of memory.
"""

import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

from measures import memory

from alma_pipeline.job import Job, read_job

BATCH, ROW_TOKENS, EPOCH = 64, 1024, 100_000
"""Examples a step, tokens a row, and how much of an epoch is laid out at most."""


def peak() -> int:
    """The most bytes that this process has had; `ru_maxrss` would count those of the process that started it."""
    return memory("VmHWM")


def prepare(job: Job, times: int) -> dict[str, float]:
    """Read, clean, tokenise and pack, after one time that does not count: what a library loads once is no cost of the text."""
    from stages.corpus.run import run

    seconds, tokens = 0.0, 0
    for number in range(times + 1):
        again = dataclasses.replace(job, work=f"{job.work}-{number}")
        shutil.rmtree(again.work, ignore_errors=True)  # of a run that was broken off
        again.out.mkdir(parents=True)
        start = time.perf_counter()
        tokens = run(again)["counts"]["train_tokens"]
        seconds += (time.perf_counter() - start) * bool(number)
        shutil.rmtree(again.work)
    return {"seconds": seconds / times, "tokens": tokens, "peak": peak()}


def epoch(job: Job, times: int) -> dict[str, float]:
    """Open the corpus, take the first batch, then lay out the rows of an epoch."""
    from alma_pipeline.ml.data.token_arrays import read_sequences
    from alma_pipeline.ml.training.batching import global_batch_size, packed_batches
    from alma_pipeline.ml.training.layouts import Item, packed

    before, start = peak(), time.perf_counter()
    examples = read_sequences(Path(job.inputs["corpus"].path), "train").examples
    global_batch_size(0, BATCH, len(examples), seed=1)
    opened, memory, tokens = time.perf_counter() - start, peak() - before, 0
    start = time.perf_counter()
    for step in range(min(EPOCH, len(examples)) // BATCH):
        batch = [examples[place] for place in global_batch_size(step, BATCH, len(examples), seed=1)]
        lengths = [len(example.ids) for example in batch]
        for places in packed_batches(lengths, ROW_TOKENS, 1)[0]:
            packed(
                [Item(batch[place].ids[: batch[place].prompt], (batch[place].ids[batch[place].prompt :],)) for place in places]
            )
        tokens += sum(lengths)
    return {"opened": opened, "memory": memory, "seconds": time.perf_counter() - start, "tokens": tokens}


def train(job: Job, times: int) -> dict[str, float]:
    """The steps of the job, as the stage runs them."""
    from stages.parallel.run import run

    result = run(job)
    return {"seconds": result["seconds"], "tokens": result["tokens"], "peak": peak()}


if __name__ == "__main__":
    found = {"prepare": prepare, "epoch": epoch, "train": train}[sys.argv[1]](read_job(Path(sys.argv[2])), int(sys.argv[3]))
    print(json.dumps(found), flush=True)
    os._exit(0)  # as a worker: what libraries do while Python is taken down is not measured
