"""The token budget from a device's free memory, which CUDA reports; here a stub does."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from alma_pipeline.ml.decoding.token_budget import FREE_SHARE, LEAST, LOGIT_BYTES, cache_bytes, free_bytes, token_budget
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.schema import Hardware
from helpers.search_model import VOCABULARY, make

FREE, RESERVED, ALLOCATED = 3_000_000, 700_000, 500_000


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    init_process_group(Hardware(name="test", threads=1))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (FREE, 10 * FREE))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: RESERVED)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: ALLOCATED)
    yield


def hardware(decode_tokens: int | None) -> Hardware:
    return Hardware(name="test", device="cuda", decode_tokens=decode_tokens)


def test_a_stated_budget_is_taken(model: PreTrainedModel) -> None:
    assert token_budget(hardware(123), model, width=5, shortest=20) == 123


def test_without_one_the_free_memory_decides(model: PreTrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    """What torch keeps unused counts as free. The log has the number."""
    assert free_bytes(model.device) == FREE + RESERVED - ALLOCATED
    each = cache_bytes(model) + LOGIT_BYTES * VOCABULARY / (8 + 20 / 5)
    tokens = token_budget(hardware(None), model, width=5, shortest=20)
    assert tokens == int(FREE_SHARE * (FREE + RESERVED - ALLOCATED) / each)
    assert f"decoding batches hold up to {tokens} tokens" in capsys.readouterr().out


def test_a_token_takes_the_bytes_that_the_cache_allocates() -> None:
    """Two layers, two key heads of 8 numbers, keys and values; half of it in 16 bits."""
    for kind in ("llama", "qwen3"):
        model = make(kind)
        found = model(torch.zeros(1, 1, dtype=torch.long), use_cache=True).past_key_values
        held = sum(part.numel() * part.itemsize for layer in found.layers for part in (layer.keys, layer.values))
        assert cache_bytes(model) == held == 2 * 2 * 2 * 8 * 4
        assert cache_bytes(model.bfloat16()) == held / 2


def test_a_full_device_still_gets_a_batch(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, FREE))
    assert token_budget(hardware(None), model, width=5, shortest=20) == LEAST
