"""The losses a user picks by name, against their formulas in 60-digit decimal arithmetic."""

from collections.abc import Sequence
from decimal import Decimal, getcontext

import pytest
import torch

from alma_pipeline.ml.training.preference_losses import (
    LossSettings,
    PairCounts,
    PairLogprobs,
    loss_share,
    means,
    named_losses,
    statistics,
)

getcontext().prec = 60
BETA, GAMMA = Decimal("0.3"), Decimal("0.7")
# (s_w, s_l, n_w, n_l, r_w, r_l): near and far, either answer ahead, and a margin of exactly 1 / (2 beta).
PAIRS = [
    (-6.0, -6.0, 4, 3, -6.5, -5.0),
    (-8.0, -2.5, 5, 2, -7.0, -7.0),
    (-1.0, -90.0, 3, 9, -2.0, -60.0),
    (-40.0, -0.5, 2, 3, 0.0, 0.0),
]


def minus_log_sigmoid(value: Decimal) -> Decimal:
    return (1 + (-value).exp()).ln()


def formula(name: str, pair: tuple[float, ...]) -> float:
    s_w, s_l, n_w, n_l, r_w, r_l = map(Decimal, pair)
    gain = (s_w - r_w) - (s_l - r_l)
    per_token = s_w / n_w - s_l / n_l
    return float(
        {
            "cpo": lambda: minus_log_sigmoid(BETA * (s_w - s_l)),
            "hinge": lambda: max(Decimal(0), 1 - BETA * (s_w - s_l)),
            "simpo": lambda: minus_log_sigmoid(BETA * per_token - GAMMA),
            "cpo_simpo": lambda: minus_log_sigmoid(BETA * per_token - GAMMA),
            "dpo": lambda: minus_log_sigmoid(BETA * gain),
            "ipo": lambda: (gain - 1 / (2 * BETA)) ** 2,
        }[name]()
    )


def sums_of(pairs: Sequence[tuple[float, ...]]) -> PairLogprobs:
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]
    chosen, rejected, n_w, n_l, r_w, r_l = columns
    return PairLogprobs(chosen.requires_grad_(), rejected.requires_grad_(), n_w, n_l, torch.stack([r_w, r_l], 1))


def terms_of(name: str) -> LossSettings:
    return LossSettings(float(BETA), nll_weight=2.0, nll_norm="token", loss=name, gamma=float(GAMMA))


@pytest.mark.parametrize("name", ["cpo", "hinge", "simpo", "cpo_simpo", "dpo", "ipo"])
def test_loss_follows_its_formula_and_its_gradient_the_slope(name: str) -> None:
    sums, step = sums_of(PAIRS), 1e-7
    losses = named_losses(sums, terms_of(name))
    torch.testing.assert_close(losses, torch.tensor([formula(name, pair) for pair in PAIRS], dtype=torch.float64))
    slopes = torch.autograd.grad(losses.sum(), (sums.chosen, sums.rejected))
    for place, slope in enumerate(slopes):
        moved = [[tuple(v + sign * step * (i == place) for i, v in enumerate(pair)) for pair in PAIRS] for sign in (1, -1)]
        up, down = ([formula(name, pair) for pair in pairs] for pairs in moved)
        expected = [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]
        assert slope.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "has_likelihood"),
    [("cpo", True), ("hinge", True), ("cpo_simpo", True), ("simpo", False), ("dpo", False), ("ipo", False)],
)
def test_likelihood_belongs_to_some_losses_only(name: str, has_likelihood: bool) -> None:
    """B54: what is logged as the loss is what is minimised."""
    sums, terms, norms = sums_of(PAIRS), terms_of(name), PairCounts(pairs=4, chosen_labels=14)
    share = loss_share(sums, terms, norms).item()
    pairs = sum(formula(name, pair) for pair in PAIRS) / 4
    assert share == pytest.approx(pairs + (2.0 * 55.0 / 14 if has_likelihood else 0.0))
    figures = means({key: value.item() for key, value in statistics(sums, terms).items()}, terms)
    assert figures["loss"] == pytest.approx(share)


def test_rewards_are_gains_over_the_reference() -> None:
    terms = terms_of("dpo")
    figures = means({key: value.item() for key, value in statistics(sums_of(PAIRS), terms).items()}, terms)
    gains = [(s_w - r_w, s_l - r_l) for s_w, s_l, _, _, r_w, r_l in PAIRS]
    assert figures["rewards/chosen"] == pytest.approx(0.3 * sum(won for won, _ in gains) / 4)
    assert figures["rewards/margins"] == pytest.approx(0.3 * sum(won - lost for won, lost in gains) / 4)
    assert figures["rewards/accuracies"] == sum(won > lost for won, lost in gains) / 4
    assert figures["logps/margins"] == pytest.approx(sum(pair[0] - pair[1] for pair in PAIRS) / 4)


def test_a_loss_without_its_reference_or_of_no_known_name_is_an_error() -> None:
    sums = sums_of(PAIRS)
    with pytest.raises(ValueError, match="loss=orpo"):
        named_losses(sums, terms_of("orpo"))
    bare = PairLogprobs(sums.chosen, sums.rejected, sums.chosen_labels, sums.rejected_labels)
    with pytest.raises(ValueError, match="loss=dpo with reference sums None"):
        named_losses(bare, terms_of("dpo"))
