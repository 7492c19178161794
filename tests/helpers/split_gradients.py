"""The gradient of one global batch, for each way to split it: `torchrun --nproc-per-node 2 -m helpers.split_gradients FOLDER`.

FOLDER holds `base` and `pairs`; each case leaves FOLDER/<case>.safetensors.
"""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import deepspeed
import torch
from safetensors.torch import save_file
from torch import Tensor

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.data.preference_pairs import PreferencePair
from alma_pipeline.ml.data.token_arrays import read_sequences
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.ml.training import logprobs
from alma_pipeline.ml.training.engine import Engine
from alma_pipeline.ml.training.loop import accumulate
from alma_pipeline.ml.training.microbatches import stream
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.preference_losses import LossSettings, paper_tau
from alma_pipeline.ml.training.preference_objective import PreferenceModel
from helpers.tiny_model import make_job

BUDGETS = {"parallel": (24, 64, 4096), "cpo": (28, 64, 4096), "arpo": (28, 4096), "dpo": (28, 4096)}
"""Row budgets of each loss that cut 16 examples into many micro-batches, a few, and one."""
ADAPTERS, ZERO_STAGES = ("none", "new"), range(4)
HELD = 2000
"""Logits at once: those of the smallest budget's rows, while larger budgets take them in pieces."""


def cases() -> Iterator[tuple[str, str, int, int]]:
    """Loss, adapter, ZeRO stage, budget."""
    for (loss, budgets), adapter, zero_stage in itertools.product(BUDGETS.items(), ADAPTERS, ZERO_STAGES):
        for budget in budgets:
            yield loss, adapter, zero_stage, budget


def main(folder: Path) -> None:
    for case in cases():
        found = gradient(folder, *case)
        if int(os.environ["RANK"]) == 0:
            save_file(found, folder / f"{'-'.join(map(str, case))}.safetensors")


def objective_of(loss: str, model: torch.nn.Module, budget: int) -> Any:
    if loss == "parallel":
        return LanguageModel(model, budget)
    tau, name = (paper_tau(1.5, gradient=True) if loss == "arpo" else None), ("dpo" if loss == "dpo" else "cpo")
    return PreferenceModel(model, budget, LossSettings(beta=0.3, nll_weight=0.8, nll_norm="token", tau=tau, loss=name))


def examples_of(loss: str, corpus: Path) -> Sequence[Any]:
    """Unequal label counts; the rejected answer is that of the pair before."""
    examples = read_sequences(corpus, "train").examples[:16]
    if loss == "parallel":
        return examples
    answers = [example.ids[example.prompt :] for example in examples]
    references = [(-9.0 - place, -11.0 + place) for place in range(len(examples))]  # dpo alone looks at them
    return [PreferencePair(e.ids[: e.prompt], answers[i], answers[i - 1], references[i]) for i, e in enumerate(examples)]


def job_of(folder: Path, name: str, adapter: str, **hardware: Any) -> Job:
    base = str(folder / "base")
    inputs = {
        "init": Input("b" * 64, "base", base, {}, base=base, base_key="b" * 64),
        "corpus": Input("c" * 64, "corpus", str(folder / "pairs"), {}),
    }
    return make_job(folder / name, "parallel", inputs, hardware, adapter=adapter, max_grad_norm=0.0)


@mock.patch.object(logprobs, "WHOLE_LOGITS", HELD)
def gradient(folder: Path, loss: str, adapter: str, zero_stage: int, budget: int) -> dict[str, Tensor]:
    """The difference that a step of plain SGD at rate 1 makes, and `grad_norm`; the same on every rank."""
    processes = {"devices": int(os.environ["WORLD_SIZE"]), "launcher": "torchrun"} if "WORLD_SIZE" in os.environ else {}
    job = job_of(folder, "work", adapter, zero_stage=zero_stage, micro_batch_tokens=budget, **processes)
    world = init_process_group(job.hardware)
    trainee = open_for_training(job.inputs["init"], job.config, job.hardware, dropout=0.0)
    start = {name: p.detach().clone() for name, p in trainee.model.named_parameters() if p.requires_grad}
    objective = objective_of(loss, trainee.model, budget)
    optimizer = torch.optim.SGD([p for p in trainee.model.parameters() if p.requires_grad], lr=1.0)
    engine = Engine(objective, optimizer, job.config, job.hardware, world.size)
    examples = examples_of(loss, Path(job.inputs["corpus"].path))
    accumulate(engine, stream(objective, [examples], world, job.hardware), engine.backward)
    engine.step(1.0)
    moved = whole(trainee.model, start)
    norm = torch.tensor(float(engine.grad_norm))
    engine.close()
    return {name: (start[name] - moved[name]).contiguous() for name in start} | {"grad_norm": norm}


def whole(model: torch.nn.Module, names: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if name in names:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                found[name] = parameter.detach().clone()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
