"""Preference losses as functions of log-probability sums. No model, no batch, no token is seen here.

For each of P pairs: `s_w` and `s_l` are the sums of the log-probabilities (nats) of the chosen and the rejected
answer's label tokens, the end token included and the prompt excluded; `n_w` and `n_l` are the numbers of those labels.
Every loss here is a micro-batch's share of the global batch's loss: what it divides by is counted over the global
batch, so the shares of any split add up to the same number.

With h = (s_w - r_w) - (s_l - r_l), where r are the sums under the model that training starts from, and
d = s_w/n_w - s_l/n_l, the loss of a pair and what is added to it are, by name:

    cpo        -log sigmoid(beta (s_w - s_l))     + NLL    CPO (arXiv 2401.08417, Eqs. 3 and 5); ARPO with a `Tau`
    hinge      max(0, 1 - beta (s_w - s_l))       + NLL    SLiC-HF (arXiv 2305.10425, Eq. 3)
    cpo_simpo  -log sigmoid(beta d - gamma)       + NLL    CPO-SimPO (repository fe1ixxu/CPO_SIMPO)
    simpo      -log sigmoid(beta d - gamma)                SimPO (arXiv 2405.14734, Eq. 6)
    dpo        -log sigmoid(beta h)                        DPO (arXiv 2305.18290, Eq. 7)
    ipo        (h - 1 / (2 beta))^2                        IPO (arXiv 2310.12036, Eq. 17, tau there is beta here)
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

WITH_LIKELIHOOD = frozenset({"cpo", "hinge", "cpo_simpo"})
"""Losses that `nll_weight` times the likelihood term belongs to."""
WITH_REFERENCE = frozenset({"dpo", "ipo"})
"""Losses that need the sums under the model that training starts from."""


@dataclass(frozen=True)
class Sums:
    """A model's view of P pairs; every tensor is [P]. The log-probabilities are float32 or wider."""

    chosen: Tensor
    """s_w"""
    rejected: Tensor
    """s_l"""
    chosen_labels: Tensor
    """n_w, each at least 1"""
    rejected_labels: Tensor
    """n_l, each at least 1"""
    reference: Tensor | None = None
    """[P, 2] r_w and r_l, constants"""


@dataclass(frozen=True)
class Tau:
    """ARPO's weight of the rejected answer, tau = min(c1 e^(c2 z) - 1, 1) with z = |s_w/n_w - s_l/n_l|.

    There is no lower limit: with c1 < 1 tau is negative where the answers are nearly equally likely, as in the
    published trainer.
    """

    c1: float
    """Above 0 and below 2; tau at z = 0 is c1 - 1."""
    c2: float
    gradient: bool
    """Whether tau is differentiated; otherwise it is a constant of each step.

    Differentiated, it can turn a pair the wrong way round: z grows on either side of 0, a larger tau lowers the loss,
    and so where the chosen answer is the less likely one and c1 c2 e^(c2 z) |s_l| > n_w, descent lowers s_w further.
    """


def paper_tau(eta: float, gradient: bool) -> Tau:
    """min(e^(eta z) - 1, 1), the form X-ALMA describes (arXiv 2410.03115, sec. 5.3: eta = 1.5)."""
    return Tau(c1=1.0, c2=eta, gradient=gradient)


def released_tau(gradient: bool) -> Tau:
    """min(0.9 e^(0.4 z) - 1, 1), as the authors' public trainer computes it by default."""
    return Tau(c1=0.9, c2=0.4, gradient=gradient)


@dataclass(frozen=True)
class Terms:
    """What a preference loss is made of."""

    beta: float
    nll_weight: float
    nll_norm: str
    """`token`: the likelihood term is a mean over the chosen labels; `sequence`: a sum per answer, mean over pairs."""
    tau: Tau | None = None
    """None is CPO, where the rejected answer weighs 1."""
    loss: str = "cpo"
    gamma: float = 0.0
    """Margin of `simpo` and `cpo_simpo`, in units of beta times nats a token."""


@dataclass(frozen=True)
class Norms:
    """What the two terms are divided by, counted over the global batch."""

    pairs: int
    chosen_labels: int


def tau_values(sums: Sums, tau: Tau | None) -> Tensor:
    """[P] weights of s_l; ones for CPO.

    The exponent is capped where tau reaches 1: beyond it e^x may overflow, and an overflow's gradient is NaN even
    where the result is not used.
    """
    if tau is None:
        return torch.ones_like(sums.rejected)
    z = (sums.chosen / sums.chosen_labels - sums.rejected / sums.rejected_labels).abs()
    exponent, cap = tau.c2 * z, math.log(2 / tau.c1)
    rising = tau.c1 * torch.expm1(exponent.clamp(max=cap)) + (tau.c1 - 1)
    value = torch.where(exponent < cap, rising, torch.ones_like(rising))
    return value if tau.gradient else value.detach()


def pair_losses(sums: Sums, beta: float, tau: Tau | None) -> Tensor:
    """[P] of -log sigmoid(beta (s_w - tau s_l)): CPO (arXiv 2401.08417, Eq. 3) with tau = 1, else ARPO."""
    return -logsigmoid(beta * (sums.chosen - tau_values(sums, tau) * sums.rejected))


def named_losses(sums: Sums, terms: Terms) -> Tensor:
    """[P] losses of the pairs by `terms.loss`. Raises ValueError for an unknown name, or without needed references."""
    if terms.loss == "cpo":
        return pair_losses(sums, terms.beta, terms.tau)
    if terms.loss == "hinge":
        return relu(1 - terms.beta * (sums.chosen - sums.rejected))
    if terms.loss in ("simpo", "cpo_simpo"):
        per_token = sums.chosen / sums.chosen_labels - sums.rejected / sums.rejected_labels
        return -logsigmoid(terms.beta * per_token - terms.gamma)
    if terms.loss not in WITH_REFERENCE or sums.reference is None:
        raise ValueError(f"loss={terms.loss} with reference sums {sums.reference}")
    margin = (sums.chosen - sums.reference[:, 0]) - (sums.rejected - sums.reference[:, 1])
    if terms.loss == "dpo":
        return -logsigmoid(terms.beta * margin)
    return (margin - 1 / (2 * terms.beta)).square()


def nll_divisor(nll_norm: str, norms: Norms) -> int:
    """What the likelihood term, minus the sum of s_w (arXiv 2401.08417, Eq. 5), is divided by."""
    if nll_norm not in ("token", "sequence"):
        raise ValueError(f"nll_norm={nll_norm}: expected token or sequence")
    return norms.chosen_labels if nll_norm == "token" else norms.pairs


def loss_share(sums: Sums, terms: Terms, norms: Norms) -> Tensor:
    """Scalar share of the global batch's loss, mean(pair loss) + nll_weight * NLL; 0 for no pairs."""
    pair_term = named_losses(sums, terms).sum() / norms.pairs
    nll = -sums.chosen.sum() / nll_divisor(terms.nll_norm, norms)
    return pair_term + _nll_weight(terms) * nll


def _nll_weight(terms: Terms) -> float:
    return terms.nll_weight if terms.loss in WITH_LIKELIHOOD else 0.0


def statistics(sums: Sums, terms: Terms) -> dict[str, Tensor]:
    """Sums over the pairs, without gradient, so that ranks and micro-batches add up; `means` makes figures of them."""
    chosen, rejected = sums.chosen.detach(), sums.rejected.detach()
    detached = replace(sums, chosen=chosen, rejected=rejected)
    reference = (
        torch.zeros(len(chosen), 2, dtype=chosen.dtype, device=chosen.device) if sums.reference is None else sums.reference
    )
    gains = torch.stack([chosen, rejected], 1) - reference
    return {
        "pairs": torch.tensor(float(chosen.numel()), dtype=chosen.dtype, device=chosen.device),
        "chosen_labels": sums.chosen_labels.sum().to(chosen.dtype),
        "pair_loss": named_losses(detached, terms).sum(),
        "chosen": chosen.sum(),
        "rejected": rejected.sum(),
        "chosen_gain": gains[:, 0].sum(),
        "rejected_gain": gains[:, 1].sum(),
        "accurate": (gains[:, 0] > gains[:, 1]).sum().to(chosen.dtype),
        "tau": tau_values(detached, terms.tau).sum(),
    }


def means(totals: dict[str, float], terms: Terms) -> dict[str, float]:
    """Figures of a batch or a data set from its totals of `statistics`, under the names they are logged by.

    Rewards are beta times a log-probability, or times its gain over the reference where there is one; a pair is
    accurate when the chosen answer has the larger of them, ties are not.
    Raises ValueError when there is no pair.
    """
    if not totals["pairs"]:
        raise ValueError("no preference pair was measured; expected at least one")
    pairs, beta = totals["pairs"], terms.beta
    nll = -totals["chosen"] / totals["chosen_labels"]
    divided = nll if terms.nll_norm == "token" else -totals["chosen"] / pairs
    return {
        "loss": totals["pair_loss"] / pairs + _nll_weight(terms) * divided,
        "preference_loss": totals["pair_loss"] / pairs,
        "nll": nll,
        "rewards/chosen": beta * totals["chosen_gain"] / pairs,
        "rewards/rejected": beta * totals["rejected_gain"] / pairs,
        "rewards/margins": beta * (totals["chosen_gain"] - totals["rejected_gain"]) / pairs,
        "rewards/accuracies": totals["accurate"] / pairs,
        "logps/chosen": totals["chosen"] / pairs,
        "logps/rejected": totals["rejected"] / pairs,
        "logps/margins": (totals["chosen"] - totals["rejected"]) / pairs,
        "tau": totals["tau"] / pairs,
    }
