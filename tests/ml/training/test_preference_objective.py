"""A preference loss over a real tiny Llama, against the same loss computed answer by answer in float64."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from alma_pipeline.ml.data.preference_pairs import PreferencePair
from alma_pipeline.ml.training import logprobs
from alma_pipeline.ml.training.preference_losses import LossSettings, Tau, paper_tau, released_tau
from alma_pipeline.ml.training.preference_objective import PreferenceModel

VOCABULARY = 40
# Lengths of (prompt, chosen, rejected): equal and unequal, a one-token answer, a prompt of BOS alone.
SIZES = [(5, 4, 4), (5, 2, 9), (3, 8, 1), (7, 1, 3), (1, 6, 5), (4, 5, 5), (9, 3, 2), (2, 2, 2)]
VARIANTS = {"cpo": None, "paper": paper_tau(1.5, gradient=True), "released": released_tau(gradient=False)}


def make_pairs(sizes: Sequence[tuple[int, int, int]] = SIZES) -> list[PreferencePair]:
    random = np.random.default_rng(3)
    texts = [[random.integers(3, VOCABULARY, size, np.int32) for size in lengths] for lengths in sizes]
    return [PreferencePair(prompt, chosen, rejected) for prompt, chosen, rejected in texts]


def make_objective(
    tau: Tau | None = None, nll_norm: str = "token", micro_batch_tokens: int = 512, model: PreTrainedModel | None = None
) -> PreferenceModel:
    terms = LossSettings(beta=0.3, nll_weight=0.8, nll_norm=nll_norm, tau=tau)
    return PreferenceModel(model or make_model(LlamaConfig), micro_batch_tokens, terms)


def make_model(config: type[PreTrainedConfig], **settings: object) -> PreTrainedModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings,
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForCausalLM.from_config(shape)
    return model.double()


def answer_logprob(model: torch.nn.Module, prompt: np.ndarray, answer: np.ndarray) -> Tensor:
    """log p(answer | prompt) in float64: one unpadded sequence, one token at a time."""
    ids = torch.tensor([*prompt.tolist(), *answer.tolist()])
    logits = model(input_ids=ids[None]).logits[0]
    terms = [logits[place - 1, ids[place]] - logits[place - 1].exp().sum().log() for place in range(len(prompt), len(ids))]
    return torch.stack(terms).sum()


def reference_loss(objective: PreferenceModel, pairs: Sequence[PreferencePair]) -> Tensor:
    """The global batch's loss, written out from the formulas."""
    terms, pair_terms, likelihoods = objective.terms, [], []
    for pair in pairs:
        s_w, s_l = (answer_logprob(objective.model, pair.prompt, answer) for answer in (pair.chosen, pair.rejected))
        weight: Tensor | float = 1.0
        if terms.tau:
            z = abs(s_w / len(pair.chosen) - s_l / len(pair.rejected))
            weight = terms.tau.c1 * torch.exp(terms.tau.c2 * z) - 1
            weight = min(weight if terms.tau.gradient else weight.item(), 1.0)
        pair_terms.append(torch.log(1 + torch.exp(-terms.beta * (s_w - weight * s_l))))
        likelihoods.append(-s_w)
    divisor = sum(len(pair.chosen) for pair in pairs) if terms.nll_norm == "token" else len(pairs)
    return torch.stack(pair_terms).sum() / len(pairs) + terms.nll_weight * torch.stack(likelihoods).sum() / divisor


def gradient(objective: PreferenceModel, loss: Tensor) -> Tensor:
    """All parameters' gradients of the loss as one vector; a parameter out of the graph is an error."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(objective.parameters()))])


def split_gradient(objective: PreferenceModel, pairs: list[PreferencePair], pieces: list[list[int]]) -> tuple[float, Tensor]:
    """Loss and gradient as the training loop accumulates them, one micro-batch after another."""
    norms = objective.norms(pairs)
    total, slopes = 0.0, []
    for piece in pieces:
        share, _ = objective(objective.collate([pairs[place] for place in piece]), norms)
        total += share.item()
        slopes.append(gradient(objective, share))
    return total, torch.stack(slopes).sum(0)


def assert_same(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    """Equal up to the float32 of the log-softmax."""
    assert found[0] == pytest.approx(expected[0], rel=2e-6)
    assert (found[1] - expected[1]).norm() <= 2e-6 * expected[1].norm()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("nll_norm", ["token", "sequence"])
def test_loss_and_gradient_are_those_of_the_formula(variant: str, nll_norm: str) -> None:
    objective, pairs = make_objective(VARIANTS[variant], nll_norm), make_pairs()
    expected = reference_loss(objective, pairs)
    found = split_gradient(objective, pairs, [list(range(len(pairs)))])
    assert_same(found, (expected.item(), gradient(objective, expected)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_split_gives_the_same_gradient(variant: str) -> None:
    """B53: one by one, uneven pieces, pieces cut by tokens over two ranks with an empty one, and all at once."""
    objective, pairs = make_objective(VARIANTS[variant]), make_pairs()
    whole = split_gradient(objective, pairs, [list(range(8))])
    objective.micro_batch_tokens = 32
    by_tokens = list(chain.from_iterable(objective.micro_batches(pairs, ranks=3, overhead=0)))
    assert len(by_tokens) % 3 == 0 and len(by_tokens) > 3
    for pieces in ([[i] for i in range(8)], [[7, 0, 3], [1], [2, 4, 5, 6]], [[*range(8)], []], by_tokens):
        assert_same(split_gradient(objective, pairs, pieces), whole)


def test_the_prompt_once_is_the_prompt_twice() -> None:
    """A packed row of prompt, chosen, rejected against a padded row for each answer: the same loss and gradient."""
    packed, padded = make_objective(released_tau(True)), make_objective(released_tau(True))
    assert packed.layout == "packed"
    padded.layout = "padded"
    pairs, everything = make_pairs(), [list(range(8))]
    assert packed.collate(pairs)["inputs"]["input_ids"].numel() < padded.collate(pairs)["inputs"]["input_ids"].numel()
    assert_same(split_gradient(packed, pairs, everything), split_gradient(padded, pairs, everything))


def test_pieces_of_logits_do_not_change_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed in the backward pass, a few labels at a time, they equal the one whole."""
    pairs, everything = make_pairs(), [list(range(8))]
    whole = split_gradient(make_objective(), pairs, everything)
    monkeypatch.setattr(logprobs, "WHOLE_LOGITS", 500)
    pieces = make_objective()
    assert pieces.chunks == 8
    assert_same(split_gradient(pieces, pairs, everything), whole)


@pytest.mark.parametrize(
    ("config", "settings", "layout"),
    [(CohereConfig, {"logit_scale": 0.4}, "packed"), (Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 2.0}, "padded")],
)
def test_a_model_that_makes_its_logits_itself_trains_by_the_formula_too(
    config: type[PreTrainedConfig], settings: dict[str, object], layout: str
) -> None:
    objective, pairs = make_objective(released_tau(True), model=make_model(config, **settings)), make_pairs()
    assert (objective.head, objective.layout) == ("own", layout)
    expected = reference_loss(objective, pairs)
    whole = expected.item(), gradient(objective, expected)
    found = split_gradient(objective, pairs, [[7, 0, 3], [1], [2, 4, 5, 6]])
    assert found[0] == pytest.approx(whole[0], rel=1e-5)
    # Norms of these architectures are in float32 whatever the model's type.
    assert (found[1] - whole[1]).norm() <= 1e-4 * whole[1].norm()


@pytest.mark.parametrize("held", [2**25, 500])
def test_a_batch_of_no_pairs_has_a_gradient_of_zeros(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """A rank with fewer rounds runs it, and must take part in every collective of the backward pass."""
    monkeypatch.setattr(logprobs, "WHOLE_LOGITS", held)
    objective = make_objective(paper_tau(1.5, True))
    share, scalars = objective(objective.collate([]), objective.norms(make_pairs()))
    assert share.item() == 0
    assert set(map(float, scalars.values())) == {0.0}
    assert gradient(objective, share).abs().max() == 0


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_micro_batch_takes_the_tokens_its_lengths_announce(layout: str) -> None:
    """Both answers of a pair are in the same micro-batch, and its rows stay within the budget."""
    objective, pairs = make_objective(micro_batch_tokens=64), make_pairs()
    objective.layout = layout
    lengths = [objective.length(pair) for pair in pairs]
    assert lengths[1] == (5 + 2 + 9 if layout == "packed" else 2 * (5 + 9))
    for piece in objective.micro_batches(pairs, ranks=1, overhead=0)[0]:
        batch = objective.collate([pairs[place] for place in piece])
        sizes = [lengths[place] for place in piece]
        tokens = sum(sizes) if layout == "packed" else len(piece) * max(sizes)
        assert batch["inputs"]["input_ids"].numel() == tokens <= 64
        assert len(batch["labels"]) == sum(objective.labels(pairs[place]) for place in piece)
        assert len(batch["answers"]) == len(piece)


def test_measures_are_those_of_the_whole_however_it_was_split() -> None:
    """Accuracy, margins, log-probabilities, loss and NLL per token, from the sums of single answers."""
    objective, pairs = make_objective(released_tau(True)), make_pairs()
    with torch.no_grad():
        chosen = [answer_logprob(objective.model, pair.prompt, pair.chosen).item() for pair in pairs]
        rejected = [answer_logprob(objective.model, pair.prompt, pair.rejected).item() for pair in pairs]
        loss = reference_loss(objective, pairs).item()
    totals: dict[str, float] = {}
    for piece in ([0, 1, 2], [3], [], [4, 5, 6, 7]):
        _, scalars = objective(objective.collate([pairs[place] for place in piece]), objective.norms(pairs))
        assert next(iter(scalars)) == "labels"
        assert all(value.dtype == torch.float64 and not value.requires_grad for value in scalars.values())
        totals = {name: totals.get(name, 0.0) + value.item() for name, value in scalars.items()}
    found = objective.measures(totals)
    margin = (sum(chosen) - sum(rejected)) / 8
    accuracy = sum(s_w > s_l for s_w, s_l in zip(chosen, rejected, strict=True)) / 8
    assert 0 < accuracy < 1
    assert totals["labels"] == sum(sum(size[1:]) for size in SIZES)
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["nll"] == pytest.approx(-sum(chosen) / sum(size[1] for size in SIZES), rel=1e-6)
    assert found["rewards/accuracies"] == accuracy
    assert found["logps/margins"] == pytest.approx(margin, rel=1e-5)
    assert found["rewards/margins"] == pytest.approx(0.3 * margin, rel=1e-5)
    assert found["logps/chosen"] == pytest.approx(sum(chosen) / 8, rel=1e-6)
    assert found["logps/rejected"] == pytest.approx(sum(rejected) / 8, rel=1e-6)
    assert math.isfinite(found["tau"])
