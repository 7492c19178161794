"""The call of the variable-length kernel, its kernel replaced by one that runs here: plain attention, one sequence at a time."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alma_pipeline.ml.training import varlen
from alma_pipeline.ml.training.layouts import Item, packed
from alma_pipeline.ml.training.packing import choose_layout
from helpers.architectures import PACKED, VOCABULARY, make, make_items, scores, separately

CPU = torch.device("cpu")


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    from_the_end: bool = True,
) -> Tensor:
    """What torch documents of `varlen_attn`; a causal query stands `from_the_end` of its keys, as in FlashAttention 2.1."""
    assert query_bounds.dtype == key_bounds.dtype == torch.int32
    assert window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    outputs = []
    for one in range(len(query_bounds) - 1):
        queries = query[query_bounds[one] : query_bounds[one + 1]]
        keys, values = (
            states[key_bounds[one] : key_bounds[one + 1]].repeat_interleave(query.shape[1] // key.shape[1], 1)
            for states in (key, value)
        )
        assert len(queries) <= longest_query
        assert len(keys) <= longest_key
        weights = torch.einsum("qhd,khd->hqk", queries, keys) * (scale if scale is not None else query.shape[2] ** -0.5)
        first = len(keys) - len(queries) if from_the_end else 0
        back = first + torch.arange(len(queries))[:, None] - torch.arange(len(keys))
        hidden = (back < 0) | ((back > window_size[0]) & (window_size[0] >= 0))
        outputs.append(torch.einsum("hqk,khd->qhd", weights.masked_fill(hidden, -torch.inf).softmax(-1), values))
    return torch.cat(outputs)


@pytest.fixture
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "is_usable", lambda *states: True)


@pytest.mark.usefixtures("on_this_machine")
@pytest.mark.parametrize("name", PACKED)
def test_pairs_are_as_if_separate_in_loss_and_gradient(name: str) -> None:
    """Prompts that stand once, with one answer or two; the sliding window is kept."""
    model, items = make(name), make_items()
    expected = separately(model, items)
    weights = torch.randn(len(expected), dtype=torch.float64)
    slopes = torch.autograd.grad((expected * weights).sum(), list(model.parameters()))
    assert choose_layout(model) == "packed"
    found = scores(model, items)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for slope, other in zip(slopes, torch.autograd.grad((found * weights).sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(other, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("on_this_machine")
def test_rows_of_single_answers_are_taken_as_they_lie() -> None:
    model, items = make("Llama"), [Item(item.prompt, item.answers[:1]) for item in make_items()]
    expected = separately(model, items)
    choose_layout(model)
    assert "keys" not in packed(items).inputs
    torch.testing.assert_close(scores(model, items), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("on_this_machine")
def test_an_empty_micro_batch_runs() -> None:
    model = make("Llama")
    choose_layout(model)
    scores(model, []).sum().backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_bounds_written_out() -> None:
    """A prompt of 2 with answers of 3 and 1, a prompt of 1 with an answer of 2."""
    ids = torch.arange(9, dtype=torch.int32).numpy() % VOCABULARY
    rows = packed([Item(ids[:2], (ids[2:5], ids[5:6])), Item(ids[6:7], (ids[7:9],))])
    inputs: Any = rows.inputs
    queries, keys, longest = inputs["bounds"]
    assert (queries.tolist(), keys.tolist(), longest) == ([0, 5, 6, 9], [0, 5, 8, 11], 5)
    assert inputs["keys"].tolist() == [0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8]


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_trial_passes_a_right_kernel_and_no_other(
    monkeypatch: pytest.MonkeyPatch, window: int | None, key_heads: int
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    assert varlen.trial_error(CPU, torch.bfloat16, 4, key_heads, 16, window) <= varlen.TOLERANCE
    monkeypatch.setattr(varlen, "varlen_attn", partial(kernel, from_the_end=False))
    assert varlen.trial_error(CPU, torch.bfloat16, 4, key_heads, 16, window) > 5 * varlen.TOLERANCE


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_slope_of_keys(query: Tensor, key: Tensor, *others: object, **options: object) -> Tensor:
        return kernel(query, key * 0.9 + key.detach() * 0.1, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(varlen, "varlen_attn", without_slope_of_keys)
    assert varlen.trial_error(CPU, torch.bfloat16, 4, 4, 16, None) > varlen.TOLERANCE


def test_where_the_kernel_does_not_run_rows_are_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    """torch's own kernel has no CPU version: tried, found out, told once."""
    states = torch.zeros(3, 4, 16, dtype=torch.bfloat16)
    assert not varlen.is_usable(states, states, None, dropout=0.0)
    assert capsys.readouterr().out == ""
    assert not varlen._tried(CPU, torch.bfloat16, 4, 4, 16, windowed=False)
    assert "does not run on cpu" in capsys.readouterr().out


def test_it_may_be_tried_in_a_layer_that_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is taken up begins with such a layer."""
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    varlen._tried.cache_clear()

    def layer(states: Tensor) -> Tensor:
        assert varlen._tried(CPU, torch.bfloat16, 4, 2, 16, windowed=False)
        return states.sin().exp()

    states = torch.randn(5, requires_grad=True)
    (found,) = torch.autograd.grad(checkpoint(layer, states, use_reentrant=False).sum(), states)
    varlen._tried.cache_clear()
    torch.testing.assert_close(found, states.cos() * states.sin().exp())


@pytest.mark.parametrize("window", [None, 4])
def test_torch_takes_the_call(window: int | None) -> None:
    """The real kernel on tensors without data: it knows each argument, forward and backward."""
    query = torch.empty(9, 4, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
    key, value = (torch.empty(9, 2, 16, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(2))
    bounds = torch.empty(4, dtype=torch.int32, device="meta")
    keys = torch.empty(11, dtype=torch.int64, device="meta")
    output = varlen.attend([query, key, value], (bounds, bounds, 5), keys, 0.25, window)
    assert output.shape == query.shape
    output.sum().backward()
    assert query.grad is not None
    assert key.grad is not None
    assert key.grad.shape == key.shape
