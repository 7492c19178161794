"""The gradient of a global batch does not depend on how it is split: over micro-batches, processes and ZeRO's slices."""

import math
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from alma_pipeline.ml.models.open import open_for_training
from helpers.split_gradients import BUDGETS, examples_of, gradient, job_of, objective_of
from helpers.tiny_model import make_base, make_pairs

LOSSES = pytest.mark.parametrize("loss", BUDGETS)
ADAPTERS = pytest.mark.parametrize("adapter", ["none", "new"])
STAGES = pytest.mark.parametrize("zero_stage", range(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gradients")
    make_base(made / "base")
    make_pairs(made / "pairs")
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """Every case of `split_gradients` in two processes, in one start of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with open(folder / "log.txt", "w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "-m", "helpers.split_gradients", str(folder)],
            env=environment,
            stdout=log,
            stderr=log,
            check=False,
            timeout=1800,
        )
    assert done.returncode == 0, (folder / "log.txt").read_text()[-3000:]
    return folder


@lru_cache
def reference(folder: Path, loss: str, adapter: str) -> dict[str, Tensor]:
    """Of the same global batch in plain torch: one process, one micro-batch, no DeepSpeed."""
    job = job_of(folder, "reference", adapter)
    model = open_for_training(job.inputs["init"], job.config, job.hardware, 0.0).model
    objective, examples = objective_of(loss, model, 4096), examples_of(loss, folder / "pairs")
    objective(objective.collate(examples), objective.norms(examples))[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """B5, B53: a step of plain SGD, unequal label counts, no clipping."""
    norm = math.sqrt(sum(float(slope.square().sum()) for slope in expected.values()))
    largest = max(float(slope.abs().max()) for slope in expected.values())
    assert float(found.pop("grad_norm")) == pytest.approx(norm, rel=1e-5)
    assert set(found) == set(expected)
    for name, slope in expected.items():
        assert_close(found[name], slope, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.slow
@LOSSES
@ADAPTERS
@STAGES
def test_two_processes_have_the_gradient_of_the_whole(two: Path, loss: str, adapter: str, zero_stage: int) -> None:
    for budget in BUDGETS[loss]:
        check(load_file(two / f"{loss}-{adapter}-{zero_stage}-{budget}.safetensors"), reference(two, loss, adapter))


@pytest.mark.slow
@LOSSES
@ADAPTERS
@STAGES
def test_one_process_has_the_gradient_of_the_whole(folder: Path, loss: str, adapter: str, zero_stage: int) -> None:
    for budget in BUDGETS[loss]:
        check(gradient(folder, loss, adapter, zero_stage, budget), reference(folder, loss, adapter))
