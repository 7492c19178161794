"""What the estimate decides and adds for training: recomputed activations, resume points, memory of the host."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.config import load
from alma_pipeline.plan.estimates import model_size
from alma_pipeline.plan.estimates.node_estimate import PROCESS_BYTES
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.schema import Architecture, Lora
from alma_pipeline.store.store import Store
from helpers.estimates import A100, LAPTOP, LLAMA_7B, LLAMA_13B, TINY, counted, of, training


def test_under_zero_3_each_process_holds_the_model_in_the_host_s_memory() -> None:
    eight = dataclasses.replace(A100, zero_stage=3, devices=8, nodes=2, launcher="slurm")
    found = of(training(precision="bf16"), LLAMA_13B, eight, counted(1000, 512_000))
    assert found.host_bytes == 8 * (PROCESS_BYTES + 26_031_728_640)


AUTO = [
    # model, settings, devices, mean length of an example -> whether activations are recomputed
    (LLAMA_7B, {}, 8, 512, False),
    (LLAMA_13B, {}, 8, 512, True),
    (LLAMA_13B, {"adapter": "new", "lora": Lora(rank=16, targets=["down_proj"])}, 8, 160, False),
    (LLAMA_7B, {}, 1, 512, True),
]


@pytest.mark.parametrize(("shape", "settings", "devices", "length", "recomputed"), AUTO)
def test_activations_are_recomputed_where_they_would_not_fit(
    shape: Architecture, settings: dict[str, Any], devices: int, length: int, recomputed: bool
) -> None:
    hardware = dataclasses.replace(A100, zero_stage=2, devices=devices, micro_batch_tokens=8192, gradient_checkpointing=None)
    config, counts = training(precision="bf16", global_batch_size=256, **settings), counted(1000, 1000 * length)
    found = of(config, shape, hardware, counts)
    assert found.gradient_checkpointing == recomputed
    # As if it had been set: memory and time are those of what was decided.
    assert found == of(config, shape, dataclasses.replace(hardware, gradient_checkpointing=recomputed), counts)
    if not recomputed:
        assert found.memory_bytes <= 0.97 * 80e9


def test_what_is_set_is_not_decided() -> None:
    for value in (True, False):
        hardware = dataclasses.replace(A100, zero_stage=2, gradient_checkpointing=value)
        assert of(training(precision="bf16"), TINY, hardware, counted(1000, 100_000)).gradient_checkpointing == value


def test_resume_points_are_counted_only_in_runs_long_enough_to_make_them() -> None:
    weights = 4 * model_size.parameters(TINY)
    short, long = (of(training(steps=steps), TINY, LAPTOP, counted(1000, 100_000)) for steps in (5, 10**6))
    assert short.seconds < LAPTOP.checkpoint_seconds < long.seconds
    assert (short.work_bytes, short.resume_points) == (weights, 0)
    assert long.work_bytes == weights + 2 * 3 * weights
    assert long.resume_points == pytest.approx(long.seconds / LAPTOP.checkpoint_seconds, abs=1)


def test_large_resume_points_are_written_less_often() -> None:
    """13B: 14 bytes a weight are 182 GB, so 182 s at 1 GB/s, at most every 20 times that."""
    config = training(precision="bf16", steps=10_000)
    found = of(config, LLAMA_13B, dataclasses.replace(A100, zero_stage=2, devices=8), counted(1000, 512_000))
    assert found.resume_bytes == 14 * 13_015_864_320 and found.resume_seconds == pytest.approx(182, abs=1)
    assert found.resume_points == pytest.approx(found.seconds / (20 * found.resume_seconds), abs=1)


def test_a_worker_gets_what_the_plan_decided_and_its_key_does_not(tmp_path: Path) -> None:
    keys = set()
    for words, expected in (([], True), (["hardware.gradient_checkpointing=false"], False), (["hardware.devices=32"], False)):
        config = load.load(["model=13b", "stage=mono", "hardware=gpu8", "target=train", *words])
        step = make_plan(config, Store(tmp_path))["mono"]
        assert step.settled(config.hardware).gradient_checkpointing is expected
        keys.add(step.key)
    assert len(keys) == 1
