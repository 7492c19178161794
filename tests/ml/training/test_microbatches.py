"""The stream of micro-batches: complete, in order, the same on every rank; ahead of the device on a GPU, and only there."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.training.loop import accumulate
from alma_pipeline.ml.training.microbatches import stream
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.prefetch import Batch, on_device
from alma_pipeline.schema import Hardware
from helpers.tiny_model import VOCABULARY

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROW_TOKENS = 24
PATIENCE = 20.0


class Watched(LanguageModel):
    """Tells what is laid out, and by which thread."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, ROW_TOKENS)
        self.made: list[tuple[list[int], str]] = []
        self.changed = threading.Condition()

    def collate(self, examples: Sequence[Tokens]) -> Batch:
        with self.changed:
            self.made.append(([int(example.ids[0]) for example in examples], threading.current_thread().name))
            self.changed.notify_all()
        return super().collate(examples)

    def wait_for(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.made) >= count, PATIENCE)


@pytest.fixture
def objective() -> Watched:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=1, **heads)
    return Watched(LlamaForCausalLM(config))


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pinning and copying to the stand-in GPU leave a tensor where it is, and are told in order."""
    told: list[str] = []
    really: Callable[..., Tensor] = Tensor.to

    def pinned(tensor: Tensor) -> Tensor:
        told.append("pinned")
        return tensor

    def copied(tensor: Tensor, *to: Any, **how: Any) -> Tensor:
        if to != (GPU,):
            return really(tensor, *to, **how)
        assert how == {"non_blocking": True}
        told.append("copied")
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    monkeypatch.setattr(Tensor, "to", copied)
    return told


def batches(sizes: Sequence[Sequence[int]]) -> list[list[Tokens]]:
    """Examples of these lengths; each one's first id is its number."""
    numbers = iter(range(VOCABULARY))
    return [[Tokens(np.full(size, next(numbers), np.int32), prompt=1) for size in batch] for batch in sizes]


TWO = ((9, 11, 10, 12, 8), (7, 13))


def test_every_example_is_laid_out_once_in_its_own_global_batch(objective: Watched) -> None:
    found = list(stream(objective, batches(TWO), World(0, 1, CPU), Hardware(name="test", micro_batch_tokens=ROW_TOKENS)))
    assert [whole.rounds for whole, _ in found] == [3, 3, 3, 1]
    assert sorted(number for ids, _ in objective.made[:3] for number in ids) == [0, 1, 2, 3, 4]
    assert sorted(objective.made[3][0]) == [5, 6]
    assert [(whole.tokens, whole.labels, whole.norms) for whole, _ in found[2:]] == [(50, 45, 45), (20, 18, 18)]


def test_ranks_share_a_global_batch_and_agree_on_its_numbers(objective: Watched) -> None:
    hardware = Hardware(name="test", micro_batch_tokens=ROW_TOKENS)
    wholes = [[whole for whole, _ in stream(objective, batches(TWO), World(rank, 2, CPU), hardware)] for rank in (0, 1)]
    assert wholes[0] == wholes[1]
    assert sorted(number for ids, _ in objective.made for number in ids) == list(range(7))


def test_a_cpu_lays_out_only_what_is_asked_for(objective: Watched) -> None:
    found = stream(objective, batches(TWO), World(0, 1, CPU), Hardware(name="test", micro_batch_tokens=ROW_TOKENS))
    assert objective.made == []
    next(found)
    assert [thread for _, thread in objective.made] == [threading.current_thread().name]


@pytest.mark.usefixtures("no_gpu_needed")
def test_a_gpu_has_the_next_micro_batch_made_meanwhile_over_the_end_of_a_global_batch_too(objective: Watched) -> None:
    found = stream(objective, batches(TWO), World(0, 1, GPU), Hardware(name="test", micro_batch_tokens=ROW_TOKENS))
    for taken in (1, 2, 3):  # the third is the last of the first global batch
        next(found)
        assert objective.wait_for(taken + 1), f"with {taken} taken only {len(objective.made)} were made"
    assert threading.current_thread().name not in {thread for _, thread in objective.made}
    assert next(found)[0].tokens == 20
    assert next(found, None) is None


def test_what_goes_to_a_gpu_is_pinned_first_and_otherwise_the_same(objective: Watched, no_gpu_needed: list[str]) -> None:
    hardware = Hardware(name="test", micro_batch_tokens=ROW_TOKENS)
    there = list(stream(objective, batches(TWO), World(0, 1, GPU), hardware))
    assert no_gpu_needed[0] == "pinned"
    assert no_gpu_needed.count("pinned") == no_gpu_needed.count("copied") == sum(tensors(batch) for _, batch in there)
    here = list(stream(objective, batches(TWO), World(0, 1, CPU), hardware))
    for (one, first), (other, second) in zip(there, here, strict=True):
        assert one == other
        assert torch.equal(first["labels"], second["labels"])
        assert torch.equal(first["inputs"]["input_ids"], second["inputs"]["input_ids"])


def tensors(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(tensors, value.values()))
    return sum(map(tensors, value)) if isinstance(value, tuple) else isinstance(value, Tensor)


@pytest.mark.usefixtures("no_gpu_needed")
@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_an_error_in_the_making_is_raised_where_the_batch_is_asked_for(device: torch.device) -> None:
    def made() -> Iterator[Batch]:
        yield {"labels": torch.zeros(1)}
        raise OSError("the disk is gone")

    found = on_device(made(), device)
    next(found)
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_a_batch_is_accumulated_to_its_end_and_the_next_one_left(objective: Watched) -> None:
    losses: list[float] = []
    engine: Callable[..., Any] = objective
    found = stream(objective, batches(TWO), World(0, 1, CPU), Hardware(name="test", micro_batch_tokens=ROW_TOKENS))
    whole, totals = accumulate(engine, found, lambda loss: losses.append(loss.item()))  # type: ignore[arg-type]
    assert (len(losses), whole.labels, int(totals["labels"])) == (3, 45, 45)
    assert sum(losses) == pytest.approx(objective.measures({n: float(v) for n, v in totals.items()})["loss"], rel=1e-6)
    whole, totals = accumulate(engine, found, lambda loss: losses.append(loss.item()))  # type: ignore[arg-type]
    assert (len(losses), int(totals["labels"])) == (4, 18)
    with pytest.raises(ValueError, match="ended after 0 micro-batches"):
        accumulate(engine, found, losses.append)  # type: ignore[arg-type]
