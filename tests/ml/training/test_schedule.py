"""Horizon and learning rate, against transformers' own schedules."""

import math
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from alma_pipeline.errors import UserError
from alma_pipeline.ml.training.schedule import evaluation_steps, factor, learning_rate, warmup_steps
from alma_pipeline.schema import Training
from alma_pipeline.schema.training import total_steps

THEIRS = {
    "cosine": "cosine",
    "inverse_sqrt": "inverse_sqrt",
    "linear": "linear",
    "constant": "constant_with_warmup",
}


def training(**settings: Any) -> Training:
    return Training(kind="test", **settings)


@pytest.mark.parametrize("schedule", THEIRS)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (10, 0), (10, 1), (37, 5), (200, 20)])
def test_factor_is_that_of_transformers(schedule: str, total: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(THEIRS[schedule], optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        assert factor(schedule, step, total, warmup) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule=polynomial"):
        factor("polynomial", 5, 10, 0)


def test_rate_peaks_after_a_warm_up_rounded_up() -> None:
    config = training(steps=30, learning_rate=0.5, schedule="linear", warmup_ratio=0.05)
    assert warmup_steps(config, 30) == 2
    assert [learning_rate(config, step, 30) for step in (0, 1, 2)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("horizon", "examples", "tokens", "expected"),
    [
        ({"steps": 7}, 3, 30, 7),
        ({"epochs": 1}, 16, 160, 2),
        ({"epochs": 1}, 17, 170, 3),
        ({"epochs": 2.5}, 16, 160, 5),
        ({"epochs": 1}, 3, 30, 1),
        ({"tokens": 800}, 100, 1000, 10),
        ({"tokens": 801}, 100, 1000, 11),
        ({"tokens": 20e9}, 1_000_000, 512_000_000, math.ceil(20e9 / 512 / 8)),
    ],
)
def test_horizon_in_steps(horizon: dict[str, Any], examples: int, tokens: int, expected: int) -> None:
    assert total_steps(training(global_batch_size=8, **horizon), examples, tokens) == expected


def test_no_example_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no example"):
        total_steps(training(steps=7), 0, 0)


@pytest.mark.parametrize(
    ("total", "evaluations", "expected"),
    [(10, 1, [10]), (10, 4, [2, 5, 8, 10]), (3, 4, [1, 2, 3]), (1, 4, [1]), (200, 4, [50, 100, 150, 200])],
)
def test_evaluations_are_spread_and_end_with_the_end(total: int, evaluations: int, expected: list[int]) -> None:
    assert evaluation_steps(total, evaluations) == expected
