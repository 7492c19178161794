"""DeepSpeed's configuration, and how a model gets onto devices."""

from typing import Any
from unittest import mock

import deepspeed
import pytest
import torch
from torch import nn

from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.training.engine import Engine, adamw, deepspeed_config, reduce_bucket
from alma_pipeline.plan.estimates import zero_memory
from alma_pipeline.schema import Hardware, Training


def hardware(**settings: Any) -> Hardware:
    return Hardware(name="test", threads=1, **settings)


def config(**settings: Any) -> Training:
    return Training(kind="test", **({"steps": 1, "seed": 1} | settings))


@pytest.mark.parametrize(
    ("trained", "bucket"),
    [
        ([16 * 11008, 16 * 4096], 16 * 15104),  # a LoRA: no more than all of it
        ([32000 * 4096, 4096, 11008 * 4096], 32000 * 4096),  # its largest matrix
        ([10**6] * 100, 50_000_000),
    ],
)
def test_the_bucket_follows_what_is_trained(trained: list[int], bucket: int) -> None:
    assert reduce_bucket(trained) == bucket
    assert deepspeed_config(config(), hardware(zero_stage=2), trained)["zero_optimization"]["reduce_bucket_size"] == bucket
    assert zero_memory.Trained(sum(trained), max(trained), 0, "bf16").bucket == bucket


def test_reductions_overlap_only_where_they_are_left_to_the_backward_pass() -> None:
    """In DeepSpeed 0.19.8 ZeRO-1 would not reduce at all."""
    overlapping = {
        (stage, devices): deepspeed_config(config(), hardware(zero_stage=stage, devices=devices, launcher="torchrun"), [8])[
            "zero_optimization"
        ]["overlap_comm"]
        for stage in (1, 2, 3)
        for devices in (1, 2)
    }
    assert overlapping == {(1, 1): False, (1, 2): False, (2, 1): False, (2, 2): True, (3, 1): True, (3, 2): True}


def test_under_zero_3_a_matrix_is_sliced_before_the_next_one_moves() -> None:
    """A model that is larger than a device can be opened: DeepSpeed would move all of it first."""
    init_process_group(hardware(zero_stage=3))
    module = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    frequencies = torch.ones(3)
    module.register_buffer("frequencies", frequencies)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    whole: list[int] = []
    moved_places: set[int] = set()
    move = torch.Tensor.to

    def moved(tensor: torch.Tensor, *target: Any, **options: Any) -> torch.Tensor:
        moved_places.add(tensor.data_ptr())
        whole.append(sum(parameter.numel() > 0 and hasattr(parameter, "ds_id") for parameter in module.parameters()))
        return move(tensor, *target, **options)

    with mock.patch.object(nn.Module, "to", side_effect=AssertionError("the whole model was moved")):
        with mock.patch.object(torch.Tensor, "to", moved):
            engine = Engine(module, adamw(module, config()), config(), hardware(zero_stage=3), ranks=1)
    assert len(whole) >= 8 and max(whole) == 0
    assert frequencies.data_ptr() in moved_places  # buffers have to reach the device too
    assert all(parameter.numel() == 0 for parameter in module.parameters())
    with deepspeed.zero.GatheredParameters(list(module.parameters())):
        assert all(torch.equal(parameter, old) for parameter, old in zip(module.parameters(), start, strict=True))
    engine.close()
