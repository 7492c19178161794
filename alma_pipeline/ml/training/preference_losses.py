"""Preference losses as functions of log-probability sums. Independent of models, batches and tokens.

For each of P pairs, `s_w` and `s_l` are the sums of the log-probabilities (nats) of the chosen and the rejected answer's
label tokens, EOS included and the prompt excluded; `n_w` and `n_l` are the numbers of those labels. Every loss here is a
micro-batch's share of the global batch's loss: it is divided by counts over the global batch, so the shares of any split
add up to the same number.

With h = (s_w - r_w) - (s_l - r_l), where r are the sums under the model that training starts from, and
d = s_w/n_w - s_l/n_l, the losses of a pair, and what is added to them, are by name:

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
"""Losses to which `nll_weight` times the likelihood term is added."""
WITH_REFERENCE = frozenset({"dpo", "ipo"})
"""Losses that need the sums under the model that training starts from."""


@dataclass(frozen=True)
class PairLogprobs:
    """A model's log-probability sums for P pairs; every tensor is [P] unless noted. Log-probabilities are float32 or wider."""

    chosen: Tensor
    """s_w"""
    rejected: Tensor
    """s_l"""
    chosen_labels: Tensor
    """n_w, each at least 1"""
    rejected_labels: Tensor
    """n_l, each at least 1"""
    reference: Tensor | None = None
    """[P, 2] r_w and r_l, constants."""


@dataclass(frozen=True)
class Tau:
    """ARPO's weight of the rejected answer: tau = min(c1 e^(c2 z) - 1, 1) with z = |s_w/n_w - s_l/n_l|.

    There is no lower limit: for c1 < 1, tau is negative when the answers are nearly equally likely, as in the published
    trainer (repository fe1ixxu/ALMA, utils/cpo_trainer.py).
    """

    c1: float
    """Above 0 and below 2; at z = 0, tau is c1 - 1."""
    c2: float
    gradient: bool
    """Whether the gradient flows through tau; otherwise tau is a constant at each step.

    If it does, it can push a pair the wrong way: z grows on either side of 0 and a larger tau lowers the loss, so if the
    chosen answer is the less likely one and c1 c2 e^(c2 z) |s_l| > n_w, descent lowers s_w further.
    """


@dataclass(frozen=True)
class LossSettings:
    """A preference loss by name, and its hyperparameters."""

    beta: float
    nll_weight: float
    nll_norm: str
    """`token`: the likelihood term is a mean over the chosen labels; `sequence`: a sum per answer, averaged over pairs."""
    tau: Tau | None = None
    """None for CPO, where the rejected answer has weight 1."""
    loss: str = "cpo"
    gamma: float = 0.0
    """Margin of `simpo` and `cpo_simpo`, in the units of beta times nats per token."""


@dataclass(frozen=True)
class PairCounts:
    """What the two terms are divided by, counted over the global batch."""

    pairs: int
    chosen_labels: int


def paper_tau(eta: float, gradient: bool) -> Tau:
    """min(e^(eta z) - 1, 1), the form X-ALMA describes (arXiv 2410.03115, sec. 5.3: eta = 1.5)."""
    return Tau(c1=1.0, c2=eta, gradient=gradient)


def released_tau(gradient: bool) -> Tau:
    """min(0.9 e^(0.4 z) - 1, 1), the defaults of the authors' trainer (repository fe1ixxu/ALMA, utils/cpo_config.py)."""
    return Tau(c1=0.9, c2=0.4, gradient=gradient)


def loss_share(sums: PairLogprobs, terms: LossSettings, norms: PairCounts) -> Tensor:
    """Scalar share of the global batch's loss: mean(pair loss) + nll_weight * NLL; 0 if there are no pairs."""
    pair_term = named_losses(sums, terms).sum() / norms.pairs
    nll = -sums.chosen.sum() / _nll_divisor(terms.nll_norm, norms)
    return pair_term + _nll_weight(terms) * nll


def statistics(sums: PairLogprobs, terms: LossSettings) -> dict[str, Tensor]:
    """Scalar sums over the pairs, without gradient, to be added over micro-batches and ranks; see `means`."""
    # These are for logging only, so they must not extend the graph.
    chosen, rejected = sums.chosen.detach(), sums.rejected.detach()
    detached = replace(sums, chosen=chosen, rejected=rejected)
    reference = (
        torch.zeros(len(chosen), 2, dtype=chosen.dtype, device=chosen.device) if sums.reference is None else sums.reference
    )
    # Without a reference, the gain is the log-probability itself.
    gains = torch.stack([chosen, rejected], 1) - reference
    return {
        "pairs": torch.full((), chosen.numel(), dtype=chosen.dtype, device=chosen.device),
        "chosen_labels": sums.chosen_labels.sum().to(chosen.dtype),
        "pair_loss": named_losses(detached, terms).sum(),
        "chosen": chosen.sum(),
        "rejected": rejected.sum(),
        "chosen_gain": gains[:, 0].sum(),
        "rejected_gain": gains[:, 1].sum(),
        "accurate": (gains[:, 0] > gains[:, 1]).sum().to(chosen.dtype),
        "tau": tau_values(detached, terms.tau).sum(),
    }


def means(totals: dict[str, float], terms: LossSettings) -> dict[str, float]:
    """Measures of a batch or a data set, under their logged names, from its totals of `statistics`.

    A reward is beta times a log-probability, or times its gain over the reference if there is one. A pair is accurate if the
    chosen answer has the larger reward; ties are not. Raises ValueError if there are no pairs.
    """
    if not totals["pairs"]:
        raise ValueError("no preference pair was measured; expected at least one")
    pairs, beta = totals["pairs"], terms.beta
    # `nll` is always per token; in the loss it is divided as configured.
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


def named_losses(sums: PairLogprobs, terms: LossSettings) -> Tensor:
    """[P] losses of the pairs by name, `terms.loss`.

    Raises ValueError for an unknown name, or if the loss needs reference sums and there are none.
    """
    # Losses without a reference model come first, then those that need its sums.
    if terms.loss == "cpo":
        return cpo_losses(sums, terms.beta, terms.tau)
    if terms.loss == "hinge":
        return relu(1 - terms.beta * (sums.chosen - sums.rejected))
    if terms.loss in ("simpo", "cpo_simpo"):
        per_token = sums.chosen / sums.chosen_labels - sums.rejected / sums.rejected_labels
        return -logsigmoid(terms.beta * per_token - terms.gamma)
    if sums.reference is not None:
        margin = (sums.chosen - sums.reference[:, 0]) - (sums.rejected - sums.reference[:, 1])
        if terms.loss == "dpo":
            return -logsigmoid(terms.beta * margin)
        if terms.loss == "ipo":
            return (margin - 1 / (2 * terms.beta)).square()
    raise ValueError(f"loss={terms.loss} with reference sums {sums.reference}: expected a known loss, with sums if it needs them")


def cpo_losses(sums: PairLogprobs, beta: float, tau: Tau | None) -> Tensor:
    """[P] of -log sigmoid(beta (s_w - tau s_l)): CPO (arXiv 2401.08417, Eq. 3) for tau = 1, else ARPO (arXiv 2410.03115)."""
    return -logsigmoid(beta * (sums.chosen - tau_values(sums, tau) * sums.rejected))


def tau_values(sums: PairLogprobs, tau: Tau | None) -> Tensor:
    """[P] weights of s_l; ones for CPO.

    The exponent is capped where tau reaches 1: beyond, e^x may overflow, and the gradient of an overflow is NaN even if the
    result is not used.
    """
    if tau is None:
        return torch.ones_like(sums.rejected)
    z = (sums.chosen / sums.chosen_labels - sums.rejected / sums.rejected_labels).abs()
    exponent, cap = tau.c2 * z, math.log(2 / tau.c1)
    rising = tau.c1 * torch.expm1(exponent.clamp(max=cap)) + (tau.c1 - 1)
    value = torch.where(exponent < cap, rising, torch.ones_like(rising))
    return value if tau.gradient else value.detach()


def _nll_divisor(nll_norm: str, norms: PairCounts) -> int:
    """What the likelihood term, minus the sum of s_w (arXiv 2401.08417, Eq. 5), is divided by."""
    if nll_norm not in ("token", "sequence"):
        raise ValueError(f"nll_norm={nll_norm}: expected token or sequence")
    return norms.chosen_labels if nll_norm == "token" else norms.pairs


def _nll_weight(terms: LossSettings) -> float:
    return terms.nll_weight if terms.loss in WITH_LIKELIHOOD else 0.0
