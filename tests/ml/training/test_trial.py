"""Trials on a loaded model: how much of it they run, where and by whom; and that the model is as it was."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from alma_pipeline.ml import distributed
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.training import logprobs, trial
from alma_pipeline.ml.training.packing import choose_layout
from alma_pipeline.schema import Hardware
from helpers.architectures import EXPECTED, make
from helpers.process_group import in_processes

DEEP = 12


def deep(monkeypatch: pytest.MonkeyPatch, name: str, **settings: Any) -> PreTrainedModel:
    layout, shape = EXPECTED[name]
    count = "n_layers" if "n_layers" in shape else "num_hidden_layers"
    monkeypatch.setitem(EXPECTED, name, (layout, shape | {count: DEEP} | settings))
    return make(name)


def layers_run(model: PreTrainedModel, choose: Callable[[PreTrainedModel], str]) -> tuple[str, set[int]]:
    """What is chosen, and which layers ran for it."""
    [layers] = [child for child in model.modules() if isinstance(child, torch.nn.ModuleList) and len(child) == DEEP]
    seen: set[int] = set()
    hooks = [layer.register_forward_hook(lambda *_, i=i: seen.add(i)) for i, layer in enumerate(layers)]
    chosen = choose(model)
    for hook in hooks:
        hook.remove()
    return chosen, seen


@pytest.mark.parametrize("name", EXPECTED)
def test_the_first_layers_decide_as_all_of_them_would(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = deep(monkeypatch, name)
    before = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in model.state_dict(keep_vars=True).items()}
    layout, seen = layers_run(model, choose_layout)
    assert layout == EXPECTED[name][0] and max(seen, default=0) < trial.LAYERS
    assert layers_run(model, logprobs.choose_head) == ("product", set(range(trial.LAYERS)))
    after = model.state_dict(keep_vars=True)
    assert after.keys() == before.keys() and model.training
    assert all(after[key].data_ptr() == place and torch.equal(after[key], value) for key, (place, value) in before.items())


def test_a_kind_of_layer_that_comes_later_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["sliding_attention"] * 10 + ["full_attention"] * 2
    model = deep(monkeypatch, "Gemma3", layer_types=kinds)
    assert layers_run(model, choose_layout) == ("packed", set(range(11)))


def test_a_layer_that_lets_examples_see_each_other_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep(monkeypatch, "Llama")

    def mixed(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output.mean(dim=1, keepdim=True)

    model.model.layers[trial.LAYERS - 1].register_forward_hook(mixed)
    assert choose_layout(model) == "padded"


def test_the_trial_is_on_the_device_and_the_weights_stay_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not copied back. Another device is played by copies in other memory."""
    model = make("Llama")

    def places() -> list[int]:
        return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]

    before, asked = places(), []

    def copied(data: torch.Tensor, device: torch.device) -> torch.Tensor:
        asked.append(device.type)
        return data.clone()

    monkeypatch.setattr(distributed, "device", lambda: torch.device("meta"))
    monkeypatch.setattr(trial, "_copied", copied)
    assert trial.passes(model, lambda: not set(places()) & set(before))
    assert places() == before and asked == ["meta"] * len(before)
    with pytest.raises(ZeroDivisionError):
        trial.passes(model, lambda: bool(1 / 0))
    assert places() == before


def test_weights_that_zero_3_has_sliced_are_whole_in_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "linear", torch.nn.functional.linear)  # ZeRO-3 replaces it
    init_process_group(Hardware(name="test"))
    config = transformers.LlamaConfig(**(EXPECTED["Llama"][1] | {"num_hidden_layers": DEEP}))
    with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 1, "zero_optimization": {"stage": 3}}):
        model = transformers.LlamaForCausalLM(config)
    assert {weight.numel() for weight in model.parameters()} == {0}
    assert layers_run(model, choose_layout) == ("packed", set(range(trial.LAYERS)))
    assert logprobs.choose_head(model) == "product"
    assert {weight.numel() for weight in model.parameters()} == {0}


def in_turn(folder: Path) -> None:
    """Two ranks of one machine, then of two."""
    model, rank = make("Llama"), torch.distributed.get_rank()
    asked: list[int] = []

    def attempt() -> bool:
        asked.append(rank)
        return rank == 0

    os.environ["LOCAL_RANK"] = str(rank)
    assert trial.passes(model, attempt) and distributed.all_gather(asked) == [[0], []]
    os.environ["LOCAL_RANK"] = "0"
    assert not trial.passes(model, attempt) and distributed.all_gather(asked) == [[0, 0], [1]]


def test_the_first_rank_of_each_machine_tries_and_all_ranks_agree(tmp_path: Path) -> None:
    in_processes(in_turn, tmp_path)
