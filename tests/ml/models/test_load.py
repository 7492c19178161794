"""Checkpoints opened, written, reopened: full models and adapters, and every way in which one could be the wrong one."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.checkpoints import check_state, gather_state, write_checkpoint
from alma_pipeline.ml.models.load import load_full
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.ml.models.open import TrainableModel, load_for_inference, open_for_training
from alma_pipeline.schema import Hardware, Training
from helpers.tiny_model import ADAPTER, FULL, LORA, files, make_base, weights

CPU = Hardware(name="test")
KEYS = {"first": "1" * 64, "second": "2" * 64}


def training(adapter: str, **settings: Any) -> Training:
    values: dict[str, Any] = {"kind": "test", "steps": 1, "adapter": adapter, "lora": LORA, "seed": 3}
    return Training(**(values | settings))


def opened(init: Input, adapter: str, dropout: float = 0.0, **settings: Any) -> TrainableModel:
    return open_for_training(init, training(adapter, **settings), CPU, dropout)


@pytest.fixture
def base(tmp_path: Path) -> Input:
    return make_base(tmp_path / "base")


def adapted(parent: Input, folder: Path, name: str, adapter: str = "new", seed: int = 1) -> Input:
    """A checkpoint on `parent` whose LoRA is random, as if trained."""
    trainee = opened(parent, adapter)
    randomise(trainee, seed)
    write_checkpoint(trainee, gather_state(trainee, first=True), folder / name, moved=True)
    return dataclasses.replace(
        parent,
        key=KEYS[name],
        path=str(folder / name),
        adapters=[*parent.adapters, str(folder / name)],
        adapter_keys=[*parent.adapter_keys, KEYS[name]],
    )


def randomise(trainee: TrainableModel, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trainee.model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=torch.arange(3, 23)[None]).logits
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_full_model_is_written_whole_and_read_back_equal(tmp_path: Path, tied: bool) -> None:
    trainee = opened(make_base(tmp_path / "base", tied=tied), "none")
    assert all(parameter.requires_grad for parameter in trainee.model.parameters())
    randomise(trainee, seed=5)
    write_checkpoint(trainee, gather_state(trainee, first=True), tmp_path / "out", moved=True)
    assert files(tmp_path / "out") == FULL
    assert torch.equal(logits(load_full(tmp_path / "out", torch.float32)), logits(trainee.model))
    assert ("lm_head.weight" in weights(tmp_path / "out")) is not tied


def test_new_adapter_starts_from_its_parent_and_freezes_it(base: Input) -> None:
    trainee = opened(base, "new")
    trained = [name for name, parameter in trainee.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(LORA.targets) * 2  # A and B, two layers
    assert all("lora_" in name for name in trained)
    assert torch.equal(logits(trainee.model), logits(load_full(Path(base.path), torch.float32)))


def test_new_adapter_depends_on_the_nodes_seed_alone(base: Input) -> None:
    torch.manual_seed(1)
    first = gather_state(opened(base, "new"), first=True)
    torch.manual_seed(2)
    again, other = gather_state(opened(base, "new"), first=True), gather_state(opened(base, "new", seed=4), first=True)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_adapter_folder_says_what_it_stands_on(base: Input, tmp_path: Path) -> None:
    """B14, B16"""
    adapted(base, tmp_path, "first")
    assert files(tmp_path / "first") == ADAPTER
    assert json.loads((tmp_path / "first/base.json").read_text()) == {"base_key": base.key, "merged": []}
    config = json.loads((tmp_path / "first/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (4, 8.0, sorted(LORA.targets))


def test_continued_adapter_is_the_parents(base: Input, tmp_path: Path) -> None:
    first = adapted(base, tmp_path, "first")
    trainee = opened(first, "continue")
    assert trainee.merged == ()
    found = gather_state(trainee, first=True)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(tmp_path / "first").items())
    assert logits(trainee.model).allclose(logits(load_merged(first, first.adapters, "fp32")), atol=1e-5)


def test_dropout_is_loras_alone_and_the_nodes(base: Input, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    first = adapted(base, tmp_path, "first")
    for parent, adapter in ((base, "new"), (first, "continue")):
        model = opened(parent, adapter, dropout=0.25).model
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {0.25}
        assert model.config.attention_dropout == 0


def test_merge_then_new_keeps_the_chain(base: Input, tmp_path: Path) -> None:
    """B7, B15: merged in fp32, equal to base and adapter; the second adapter names what was merged below it."""
    first = adapted(base, tmp_path, "first")
    trainee = opened(first, "merge_then_new")
    assert trainee.merged == (KEYS["first"],)
    beside = logits(opened(first, "continue").model)
    assert logits(trainee.model).allclose(beside, atol=1e-5)
    assert not beside.allclose(logits(load_full(Path(base.path), torch.float32)), atol=1e-2)
    second = adapted(first, tmp_path, "second", adapter="merge_then_new", seed=2)
    assert json.loads((tmp_path / "second/base.json").read_text())["merged"] == [KEYS["first"]]
    both = logits(load_merged(second, second.adapters, "fp32"))
    assert both.allclose(logits(opened(second, "continue").model), atol=1e-5)
    assert not both.allclose(beside, atol=1e-2)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_inference_has_everything_merged(base: Input, tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    first = adapted(base, tmp_path, "first")
    model, tokenizer = load_for_inference(first, CPU, precision)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not any("lora" in name for name, _ in model.named_modules())
    assert not model.training
    merged = load_merged(first, first.adapters, "fp32").to(dtype)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), merged.parameters(), strict=True))
    assert tokenizer("w5 w6").input_ids == [5, 6]


@pytest.mark.parametrize(
    ("with_adapter", "adapter", "message"),
    [
        (False, "continue", "adapter=continue needs a parent with an adapter, found a full model; use adapter=new"),
        (False, "merge_then_new", "adapter=merge_then_new needs a parent with an adapter"),
        (True, "new", "adapter=new needs a full model as parent, found one with an adapter"),
        (True, "none", "adapter=none needs a full model as parent, found one with an adapter"),
    ],
)
def test_parent_must_have_what_the_adapter_needs(
    base: Input, tmp_path: Path, with_adapter: bool, adapter: str, message: str
) -> None:
    parent = adapted(base, tmp_path, "first") if with_adapter else base
    with pytest.raises(UserError, match=message):
        opened(parent, adapter)


@pytest.mark.parametrize("changed", [{"rank": 2}, {"alpha": 4.0}, {"targets": ["q_proj"]}])
def test_continuing_with_another_shape_is_refused(base: Input, tmp_path: Path, changed: dict[str, Any]) -> None:
    first = adapted(base, tmp_path, "first")
    with pytest.raises(UserError, match="make them equal"):
        opened(first, "continue", lora=dataclasses.replace(LORA, **changed))


def test_unknown_target_is_named_with_the_known_ones(base: Input) -> None:
    with pytest.raises(UserError, match=r"no \['w1'\]; expected some of .*'down_proj'"):
        opened(base, "new", lora=dataclasses.replace(LORA, targets=["q_proj", "w1"]))


def test_adapter_on_another_base_is_refused(base: Input, tmp_path: Path) -> None:
    """B16"""
    first = adapted(base, tmp_path, "first")
    other = make_base(tmp_path / "other", key="e" * 64, seed=9)
    moved = dataclasses.replace(first, base=other.base, base_key=other.key)
    for use in (lambda: opened(moved, "continue"), lambda: load_for_inference(moved, CPU, "fp32")):
        with pytest.raises(UserError, match="trained on another base"):
            use()


def test_adapter_out_of_its_chain_is_refused(base: Input, tmp_path: Path) -> None:
    """B16: the second adapter was trained with the first merged; without it, it is on another base."""
    second = adapted(adapted(base, tmp_path, "first"), tmp_path, "second", adapter="merge_then_new")
    alone = dataclasses.replace(second, adapters=second.adapters[1:], adapter_keys=second.adapter_keys[1:])
    with pytest.raises(UserError, match="trained on another base"):
        load_for_inference(alone, CPU, "fp32")


def test_adapter_without_a_base_is_refused(base: Input, tmp_path: Path) -> None:
    first = adapted(base, tmp_path, "first")
    (tmp_path / "first/base.json").unlink()
    with pytest.raises(UserError, match=r"has no base.json"):
        opened(first, "continue")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_adapter_with_other_tensors_is_refused(base: Input, tmp_path: Path, change: str) -> None:
    """B16: elsewhere missing keys are only warned of."""
    first = adapted(base, tmp_path, "first")
    state = weights(tmp_path / "first")
    name = next(iter(state))
    tensor = state.pop(name)
    if change == "unexpected":
        state |= {name: tensor, name.replace("layers.0", "layers.7"): tensor.clone()}
    save_file(state, tmp_path / "first/adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(PipelineError, match=change):
        opened(first, "continue")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_full_model_with_other_tensors_is_refused(base: Input, tmp_path: Path, change: str) -> None:
    state = weights(tmp_path / "base")
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = state.pop(name)
    if change == "unexpected":
        state |= {name: tensor, name.replace("layers.1", "layers.7"): tensor.clone()}
    save_file(state, tmp_path / "base/model.safetensors", {"format": "pt"})
    with pytest.raises(PipelineError, match=change):
        opened(base, "none")


def test_pickled_weights_are_not_read(base: Input, tmp_path: Path) -> None:
    """B9"""
    torch.save(weights(tmp_path / "base"), tmp_path / "base/pytorch_model.bin")
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        opened(base, "none")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [(torch.empty(0), "are empty"), (torch.tensor([1.0, float("nan")]), "NaN"), (torch.zeros(3), "still 0")],
)
def test_lost_tensors_are_not_saved(tensor: Tensor, message: str) -> None:
    """B6"""
    with pytest.raises(PipelineError, match=message):
        check_state({"lora_A": torch.ones(2), "lora_B.weight": tensor}, moved=True)


def test_untouched_adapter_may_be_saved_before_the_first_update() -> None:
    check_state({"lora_B.weight": torch.zeros(3)}, moved=False)


def test_failed_write_leaves_no_checkpoint(base: Input, tmp_path: Path) -> None:
    """B8"""
    trainee = opened(base, "none")
    state = gather_state(trainee, first=True)
    state["model.norm.weight"] = torch.full((16,), float("inf"))
    with pytest.raises(PipelineError, match="infinity"):
        write_checkpoint(trainee, state, tmp_path / "out", moved=True)
    assert not (tmp_path / "out").exists()


def test_newer_checkpoint_takes_the_place_of_an_older(base: Input, tmp_path: Path) -> None:
    trainee = opened(base, "none")
    write_checkpoint(trainee, gather_state(trainee, first=True), tmp_path / "out", moved=True)
    shutil.copyfile(tmp_path / "out/config.json", tmp_path / "out/stale.json")
    randomise(trainee, seed=6)
    write_checkpoint(trainee, gather_state(trainee, first=True), tmp_path / "out", moved=True)
    assert files(tmp_path / "out") == FULL
    assert torch.equal(logits(load_full(tmp_path / "out", torch.float32)), logits(trainee.model))
