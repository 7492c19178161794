"""Which adapters vLLM gets unmerged, and on how many devices a model is put."""

import json
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.decoding.vllm_model import devices_each, prepare, served_rank
from alma_pipeline.schema import Hardware
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint

CPU, CARD = Hardware(name="test"), Hardware(name="test", device="cuda")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(tmp_path: Path, base: Input) -> Input:
    return make_adapter(base, tmp_path / "adapter", 1, rank=4)


def change(adapter: Input, name: str, **values: Any) -> Input:
    file = Path(adapter.path) / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return adapter


@pytest.mark.parametrize(("rank", "served"), [(1, 8), (8, 8), (9, 16), (512, 512), (513, 0)])
def test_a_rank_gets_the_next_that_vllm_has(adapter: Input, rank: int, served: int) -> None:
    assert served_rank(change(adapter, "adapter_config.json", r=rank), "bf16", CARD) == served


@pytest.mark.parametrize(
    "special",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": "all-linear"},
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"q_proj": 600}},
    ],
)
def test_what_vllm_does_not_serve_is_merged(adapter: Input, special: dict[str, Any]) -> None:
    assert served_rank(adapter, "bf16", CARD) == 8
    assert served_rank(change(adapter, "adapter_config.json", **special), "bf16", CARD) == 0


def test_so_are_adapters_of_4_bit_weights_and_on_a_card_in_32_bits(adapter: Input) -> None:
    """vLLM's kernels for adapters compute in 16 bits; its CPU code in any."""
    assert (served_rank(adapter, "fp32", CPU), served_rank(adapter, "fp32", CARD)) == (8, 0)
    assert served_rank(change(adapter, "base.json", quantization="nf4"), "bf16", CARD) == 0


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, adapter: Input) -> None:
    with pytest.raises(UserError, match="was trained on another base"):
        prepare(change(adapter, "base.json", base_key="f" * 64), "bf16", CARD, tmp_path / "work")


@pytest.mark.parametrize(("devices", "memory_gb", "each"), [(8, 80, 1), (8, 6e-5, 2), (2, 1e-9, 2), (3, 1e-9, 1), (8, 1e-9, 2)])
def test_a_model_gets_one_device_if_that_holds_it_and_no_more_than_divide_its_heads(
    base: Input, devices: int, memory_gb: float, each: int
) -> None:
    """Two heads: they cannot be divided by 3 or 8. 30,000 parameters of 2 bytes."""
    machine = Hardware(name="test", device="cuda", devices=devices, launcher="torchrun", memory_gb=memory_gb)
    assert devices_each(Path(base.base), "bf16", machine) == each
