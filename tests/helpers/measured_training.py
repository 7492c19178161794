"""A script, not a test: train `model=tiny` for a few steps in this process, and print what it took beside the estimate.

python -m helpers.measured_training ZERO_STAGE FOLDER       memory from before the model is loaded; CPU seconds of the steps alone
"""

import ctypes
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.config import load
from alma_pipeline.job import Input
from alma_pipeline.ml.training import loop as training
from alma_pipeline.plan.estimates.estimate import estimate
from alma_pipeline.plan.estimates.node_estimate import PROCESS_BYTES, START_SECONDS, Counts
from alma_pipeline.schema import Architecture
from helpers import tiny_model as bed
from stages.mono.run import run

STEPS, BATCH, BLOCK = 6, 32, 128


def main(stage: int, folder: Path) -> dict[str, float]:
    model = load.load([]).model
    base, corpus = make_base(folder / "base", model.architecture), bed.make_documents(folder / "corpus", 200, 8, BLOCK)
    machine: dict[str, Any] = {"zero_stage": stage, "micro_batch_tokens": BATCH * BLOCK, "flops": core_rate()}
    settings = {"steps": STEPS, "global_batch_size": BATCH, "learning_rate": 1e-4, "select_by": "last", "evaluations": 1}
    job = bed.make_job(folder / "work", "mono", {"init": base, "corpus": corpus}, machine, max_dev_loss_ratio=10.0, **settings)
    warm_up(folder / "warm", machine | {"micro_batch_tokens": 64})
    seconds, step = [0.0], training._Loop._step

    def timed(loop: object, micro_batches: object) -> object:
        started = time.process_time()
        result = step(loop, micro_batches)  # type: ignore[arg-type]
        seconds.append(time.process_time() - started)
        return result

    training._Loop._step = timed  # type: ignore[assignment, method-assign]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start VmHWM again from what is resident now
    run(job)
    found = estimate("mono", job.config, model, job.hardware, Counts(examples=200, tokens=200 * BLOCK, exact=True))
    assert found is not None
    return {
        "memory": resident("VmHWM") - before,
        "memory_estimate": found.memory_bytes - PROCESS_BYTES,
        "seconds": sum(seconds),
        "seconds_estimate": found.seconds - START_SECONDS,
    }


def core_rate(side: int = 1024) -> float:
    """fp32 FLOP a CPU second of matrix products here: what `hardware.flops` states of a machine, for one of its cores."""
    left, right = torch.rand(side, side), torch.rand(side, side)
    left @ right
    started = time.process_time()
    for _ in range(10):
        left @ right
    return 10 * 2 * side**3 / (time.process_time() - started)


def warm_up(folder: Path, machine: dict[str, Any]) -> None:
    """What libraries import and allocate at their first use is not the model's: a smaller one goes first, and is freed."""
    inputs = {"init": bed.make_base(folder / "base"), "corpus": bed.make_documents(folder / "corpus")}
    run(bed.make_job(folder / "work", "mono", inputs, machine, steps=2, select_by="last", max_dev_loss_ratio=10.0))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def make_base(folder: Path, shape: Architecture) -> Input:
    """The bed's tokenizer beside a model of `shape`."""
    made = bed.make_base(folder)
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.max_positions,
            tie_word_embeddings=shape.tied_embeddings,
        )
    ).save_pretrained(folder)
    return made


def resident(name: str) -> int:
    """Bytes, of this process: VmRSS now, VmHWM at most."""
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]))))
