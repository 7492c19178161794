"""Preference losses against the formulas in 60-digit decimal arithmetic, one pair and one term at a time."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from torch import Tensor

from alma_pipeline.ml.training.preference_losses import (
    LossSettings,
    PairCounts,
    PairLogprobs,
    Tau,
    cpo_losses,
    loss_share,
    means,
    paper_tau,
    released_tau,
    statistics,
    tau_values,
)

getcontext().prec = 60
STEP = Decimal("1e-20")
CPO = LossSettings(beta=0.1, nll_weight=1.0, nll_norm="token")
VARIANTS = {
    "cpo": None,
    "paper": paper_tau(1.5, gradient=True),
    "released": released_tau(gradient=True),
    "paper, constant": paper_tau(1.5, gradient=False),
    "released, constant": released_tau(gradient=False),
}
# (s_w, s_l, n_w, n_l): z = 0, tiny, about 0.3 either way, the chosen one worse, saturated, and far beyond exp's range.
PAIRS = [
    (-6.0, -6.0, 4, 4),
    (-6.0, -9.0, 4, 6),
    (-8.0, -8.05, 5, 5),
    (-3.0, -5.4, 6, 8),
    (-9.9, -6.0, 7, 5),
    (-2.0, -90.0, 3, 9),
    (-400.0, -0.5, 2, 3),
    (-0.001, -3000.0, 1, 2),
]


def reference_tau(s_w: Decimal, s_l: Decimal, n_w: int, n_l: int, tau: Tau | None) -> Decimal:
    if tau is None:
        return Decimal(1)
    z = s_w / n_w - s_l / n_l
    z = -z if z < 0 else z
    value = Decimal(tau.c1) * (Decimal(tau.c2) * z).exp() - 1
    return value if value < 1 else Decimal(1)


def reference_pair(s_w: Decimal, s_l: Decimal, weight: Decimal, beta: float) -> Decimal:
    inner = Decimal(beta) * (s_w - weight * s_l)
    return -(1 / (1 + (-inner).exp())).ln()


def reference_gradient(pair: tuple[float, float, int, int], tau: Tau | None, beta: float) -> tuple[float, float]:
    """Central differences in s_w and s_l; a tau without gradient stays at the value of the middle point."""
    s_w, s_l = Decimal(pair[0]), Decimal(pair[1])
    fixed = reference_tau(s_w, s_l, pair[2], pair[3], tau)

    def loss(chosen: Decimal, rejected: Decimal) -> Decimal:
        moving = tau is None or tau.gradient
        weight = reference_tau(chosen, rejected, pair[2], pair[3], tau) if moving else fixed
        return reference_pair(chosen, rejected, weight, beta)

    in_chosen = (loss(s_w + STEP, s_l) - loss(s_w - STEP, s_l)) / (2 * STEP)
    in_rejected = (loss(s_w, s_l + STEP) - loss(s_w, s_l - STEP)) / (2 * STEP)
    return float(in_chosen), float(in_rejected)


def sums_of(pairs: list[tuple[float, float, int, int]], dtype: torch.dtype = torch.float64) -> PairLogprobs:
    columns = list(zip(*pairs, strict=True)) or [(), (), (), ()]
    chosen = torch.tensor(columns[0], dtype=dtype, requires_grad=True)
    rejected = torch.tensor(columns[1], dtype=dtype, requires_grad=True)
    return PairLogprobs(chosen, rejected, torch.tensor(columns[2], dtype=torch.long), torch.tensor(columns[3], dtype=torch.long))


def gradients(loss: Tensor, sums: PairLogprobs) -> Tensor:
    return torch.stack(torch.autograd.grad(loss, (sums.chosen, sums.rejected)), dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_pair_losses_and_gradients_follow_the_formula(variant: str, beta: float) -> None:
    tau = VARIANTS[variant]
    sums = sums_of(PAIRS)
    losses = cpo_losses(sums, beta, tau)
    wanted, slopes = [], []
    for s_w, s_l, n_w, n_l in PAIRS:
        weight = reference_tau(Decimal(s_w), Decimal(s_l), n_w, n_l, tau)
        wanted.append(float(reference_pair(Decimal(s_w), Decimal(s_l), weight, beta)))
        slopes.append(reference_gradient((s_w, s_l, n_w, n_l), tau, beta))
    torch.testing.assert_close(losses, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients(losses.sum(), sums), torch.tensor(slopes, dtype=torch.float64), rtol=1e-10, atol=1e-14)


# z, then tau by the released trainer's constants (0.9, 0.4) and by the paper's (1, 1.5), reckoned by hand; at ln(2)/1.5 = 0.4621
# the paper's form saturates.
TABLE = [
    (0.0, -0.100, 0.0),
    (0.1, -0.063, 0.162),
    (0.2, -0.025, 0.350),
    (0.3, 0.015, 0.568),
    (math.log(2) / 1.5, 0.083, 1.0),
    (1.0, 0.343, 1.0),
    (2.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("z", "released", "paper"), TABLE)
@pytest.mark.parametrize("sign", [1, -1])
def test_tau_of_both_variants_at_the_tabled_distances(z: float, released: float, paper: float, sign: int) -> None:
    sums = sums_of([(5 * (-3.0 + sign * z), 2 * -3.0, 5, 2)])
    assert tau_values(sums, released_tau(True)).item() == pytest.approx(released, abs=5.1e-4)
    assert tau_values(sums, paper_tau(1.5, True)).item() == pytest.approx(paper, abs=5.1e-4)


def test_the_released_variant_rewards_the_rejected_answer_at_small_distances_and_the_paper_never() -> None:
    """z = 0.1: tau is -0.063, so a likelier rejected answer lowers the loss; paper's tau raises it."""
    sums = sums_of([(-8.0, -8.5, 5, 5)])
    by_variant = {
        name: gradients(cpo_losses(sums, 0.1, tau).sum(), sums)[0, 1].item()
        for name, tau in (("released", released_tau(False)), ("paper", paper_tau(1.5, False)))
    }
    assert by_variant["released"] < 0 < by_variant["paper"]


def test_tau_gradient_is_on_or_off() -> None:
    """With the gradient on, s_w moves tau too: the two slopes differ by exactly that path."""
    sums = sums_of([(-3.0, -6.0, 10, 10)])
    slopes = [gradients(cpo_losses(sums, 0.1, released_tau(on)).sum(), sums) for on in (True, False)]
    inner = 0.1 * (-3.0 + 6.0 * (0.9 * math.exp(0.4 * 0.3) - 1))
    through_tau = -(1 / (1 + math.exp(inner))) * 0.1 * 6.0 * (0.9 * 0.4 * math.exp(0.4 * 0.3) / 10)
    assert (slopes[0] - slopes[1])[0, 0].item() == pytest.approx(through_tau, rel=1e-9)


def test_a_differentiated_tau_can_push_a_wrongly_ordered_pair_further_apart() -> None:
    """1 nat a token, the chosen answer slightly less likely: c1 c2 e^(c2 z) is 1.5 for the paper's tau, above the
    turning point 1, and 0.36 for the released one. A constant tau always raises s_w."""
    pair = [(-5.05, -5.0, 5, 5)]
    signs = {}
    for name, tau in VARIANTS.items():
        sums = sums_of(pair)
        signs[name] = gradients(cpo_losses(sums, 0.1, tau).sum(), sums)[0, 0].sign().item()
    assert signs == {"cpo": -1, "paper": 1, "released": -1, "paper, constant": -1, "released, constant": -1}


@pytest.mark.parametrize("tau", [paper_tau(1.5, True), released_tau(True)])
def test_float32_survives_distances_beyond_the_range_of_exp(tau: Tau) -> None:
    """e^(c2 z) overflows float32 above 88; tau stays 1 and the gradients stay finite."""
    sums = sums_of([(-0.01, -3000.0, 1, 2), (-2000.0, -0.01, 1, 2)], torch.float32)
    losses = cpo_losses(sums, 0.1, tau)
    assert tau_values(sums, tau).tolist() == [1.0, 1.0]
    assert losses.tolist() == pytest.approx([0.0, 199.999], abs=1e-3)
    assert gradients(losses.sum(), sums).isfinite().all()


def test_cpo_is_the_written_out_formula_of_the_common_trainers() -> None:
    """Whole batch in one micro-batch: mean of -log sigmoid(beta (logp_w - logp_l)) plus the mean cross-entropy of
    every chosen label, which is what trl's CPO computes for loss_type sigmoid and cpo_alpha 1.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, 13, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 13, (6, 9), generator=generator)
    for row, (start, end) in enumerate([(3, 9), (3, 5), (2, 8), (3, 7), (3, 9), (2, 4)]):
        labels[row, :start] = labels[row, end:] = -100
    per_token = torch.log_softmax(logits[:, :-1], dim=-1)
    mask = labels[:, 1:] != -100
    logps = (per_token.gather(2, labels[:, 1:].clamp(min=0).unsqueeze(2)).squeeze(2) * mask).sum(1)
    preference = -torch.log(torch.sigmoid(0.1 * (logps[:3] - logps[3:]))).mean()
    flat_logits, flat_labels = logits[:3, :-1].reshape(-1, 13), labels[:3, 1:].reshape(-1)
    expected = preference + torch.nn.functional.cross_entropy(flat_logits, flat_labels, ignore_index=-100)

    sums = PairLogprobs(logps[:3], logps[3:], mask[:3].sum(1), mask[3:].sum(1))
    share = loss_share(sums, CPO, PairCounts(pairs=3, chosen_labels=int(mask[:3].sum())))
    assert share.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("nll_norm", ["token", "sequence"])
@pytest.mark.parametrize("split", [[8], [1] * 8, [3, 5], [7, 1], [2, 0, 6]])
def test_shares_of_any_split_add_up(variant: str, nll_norm: str, split: list[int]) -> None:
    """B53: divisors belong to the global batch, so loss and gradient do not depend on the micro-batches."""
    terms = LossSettings(beta=0.1, nll_weight=0.7, nll_norm=nll_norm, tau=VARIANTS[variant])
    norms = PairCounts(pairs=len(PAIRS), chosen_labels=sum(pair[2] for pair in PAIRS))
    whole = sums_of(PAIRS)
    total = loss_share(whole, terms, norms)
    start, shares, slopes = 0, [], []
    for size in split:
        part = sums_of(PAIRS[start : start + size])
        start += size
        shares.append(loss_share(part, terms, norms))
        slopes.append(gradients(shares[-1], part))
    assert start == len(PAIRS)
    torch.testing.assert_close(torch.stack(shares).sum(), total, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.cat(slopes), gradients(total, whole), rtol=1e-13, atol=0)


def test_the_likelihood_term_is_per_token_or_per_sequence() -> None:
    """Two answers of 3 and 5 labels: 10 nats over 8 labels, or over 2 pairs."""
    sums = sums_of([(-4.0, -1.0, 3, 2), (-6.0, -1.0, 5, 2)])
    norms = PairCounts(pairs=2, chosen_labels=8)
    shares = {
        norm: [loss_share(sums, LossSettings(beta=0.1, nll_weight=weight, nll_norm=norm), norms).item() for weight in (0, 2)]
        for norm in ("token", "sequence")
    }
    assert shares["token"][1] - shares["token"][0] == pytest.approx(2 * 10 / 8)
    assert shares["sequence"][1] - shares["sequence"][0] == pytest.approx(2 * 10 / 2)
    with pytest.raises(ValueError, match="nll_norm=batch: expected token or sequence"):
        loss_share(sums, LossSettings(beta=0.1, nll_weight=1.0, nll_norm="batch"), norms)


def test_means_are_those_of_the_single_pairs() -> None:
    pairs = [(-4.0, -9.0, 4, 3), (-6.0, -2.0, 5, 2), (-3.0, -3.0, 3, 3)]
    terms = LossSettings(beta=0.5, nll_weight=2.0, nll_norm="sequence", tau=paper_tau(1.5, True))
    first, rest = statistics(sums_of(pairs[:1]), terms), statistics(sums_of(pairs[1:]), terms)
    found = means({name: (first[name] + rest[name]).item() for name in first}, terms)
    taus = [1.0, math.expm1(1.5 * 0.2), 0.0]
    losses = [math.log1p(math.exp(-0.5 * (s_w - t * s_l))) for (s_w, s_l, _, _), t in zip(pairs, taus, strict=True)]
    assert found == pytest.approx(
        {
            "loss": sum(losses) / 3 + 2.0 * 13 / 3,
            "preference_loss": sum(losses) / 3,
            "nll": 13 / 12,
            "rewards/chosen": 0.5 * -13 / 3,
            "rewards/rejected": 0.5 * -14 / 3,
            "rewards/margins": 0.5 / 3,
            "rewards/accuracies": 1 / 3,
            "logps/chosen": -13 / 3,
            "logps/rejected": -14 / 3,
            "logps/margins": 1 / 3,
            "tau": sum(taus) / 3,
        }
    )


def test_means_of_nothing_is_an_error() -> None:
    empty = {name: value.item() for name, value in statistics(sums_of([]), CPO).items()}
    with pytest.raises(ValueError, match="no preference pair was measured"):
        means(empty, CPO)
