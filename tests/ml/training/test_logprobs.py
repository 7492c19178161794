"""Scores of labels in pieces, against torch's own log-softmax in float64."""

import pytest
import torch
from torch import Tensor

from alma_pipeline.ml.training.logprobs import chunked_logprobs


def case(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(count, 8, dtype=dtype), torch.randn(30, 8, dtype=dtype)
    return hidden, weight, torch.randint(0, 30, (count,))


@pytest.mark.parametrize("trains_head", [True, False])
@pytest.mark.parametrize("held", [1, 3 * 30, 23 * 30])
@pytest.mark.parametrize("count", [0, 1, 5, 23])
def test_scores_and_gradients_are_those_of_log_softmax(count: int, held: int, trains_head: bool) -> None:
    hidden, weight, labels = case(count)
    hidden.requires_grad_(), weight.requires_grad_(trains_head)
    outer = torch.randn(count, dtype=torch.float64)
    inputs = [hidden, weight] if trains_head else [hidden]
    expected = torch.log_softmax(hidden @ weight.t(), 1).gather(1, labels[:, None])[:, 0]
    slopes = torch.autograd.grad((expected * outer).sum(), inputs)
    found = chunked_logprobs(hidden, weight, labels, held)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for slope, other in zip(slopes, torch.autograd.grad((found * outer).sum(), inputs), strict=True):
        torch.testing.assert_close(other, slope, rtol=1e-11, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, labels = case(6, torch.float32)
    found = chunked_logprobs(hidden * 1e4, weight, labels, held=3 * 30)
    expected = torch.log_softmax((hidden * 1e4).double() @ weight.double().t(), 1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-2)


def test_half_precision_is_summed_in_single() -> None:
    hidden, weight, labels = case(40, torch.bfloat16)
    assert chunked_logprobs(hidden, weight, labels, held=5 * 30).dtype == torch.float32


def test_the_heads_gradient_is_as_good_in_many_pieces_as_in_one() -> None:
    """Summed up in bfloat16, it would be off by nearly twice as much."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(512, 32), torch.randn(100, 32)
    labels = torch.randint(0, 100, (512,))

    def slope(dtype: torch.dtype, held: int) -> Tensor:
        head = weight.bfloat16().to(dtype).requires_grad_()
        chunked_logprobs(hidden.bfloat16().to(dtype), head, labels, held).sum().backward()
        assert head.grad is not None
        assert head.grad.dtype == dtype
        return head.grad.double()

    exact = slope(torch.float64, 512 * 100)
    one, many = ((slope(torch.bfloat16, held) - exact).norm() for held in (512 * 100, 8 * 100))
    assert many < 1.3 * one


def test_never_are_all_logits_held() -> None:
    """The largest tensor made on the way is one piece."""
    hidden, labels = torch.randn(64, 4, requires_grad=True), torch.zeros(64, dtype=torch.int64)
    weight = torch.randn(5000, 4, requires_grad=True)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        chunked_logprobs(hidden, weight, labels, held=8 * 5000).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    piece, gradient = 64 * 5000 * 4 // 8, weight.numel() * 4
    assert piece <= largest < 4 * max(piece, gradient) < 64 * 5000 * 4
