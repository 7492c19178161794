"""The language-model objective on a tiny Llama, against Hugging Face's own loss."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.training import logprobs
from alma_pipeline.ml.training.batching import packed_batches
from alma_pipeline.ml.training.objective import LanguageModel
from helpers.objective_models import bloom, llama
from helpers.tiny_model import VOCABULARY

FEW = 64


@pytest.fixture(params=[logprobs.WHOLE_LOGITS, 8 * VOCABULARY], ids=["whole logits", "of eight labels at a time"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many logits are in memory at once."""
    monkeypatch.setattr(logprobs, "WHOLE_LOGITS", request.param)
    return int(request.param)


def opt() -> OPTForCausalLM:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
        dropout=0.0,
    )
    return OPTForCausalLM(config)


def gemma2() -> Gemma2ForCausalLM:
    """It caps attention, so rows are padded, and logits, so it makes them itself."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=2.0,
        initializer_range=0.3,
    )
    return Gemma2ForCausalLM(config)


def cohere() -> CohereForCausalLM:
    """It scales logits, and lets itself be packed."""
    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        logit_scale=0.4,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    return CohereForCausalLM(config)


def examples(count: int = 12) -> list[Tokens]:
    """Unequal lengths and label counts; the first has one label only, the second a prompt of BOS alone."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 24, count)
    prompts = [int(lengths[0]) - 1, 1, *(int(rng.integers(1, n)) for n in lengths[2:])]
    return [Tokens(rng.integers(3, VOCABULARY, n).astype(np.int32), p, 10) for n, p in zip(lengths, prompts, strict=True)]


def their_loss(model: nn.Module, batch: Sequence[Tokens]) -> Tensor:
    """Hugging Face's mean over labels, one unpadded example at a time."""
    total = torch.zeros(())
    for example in batch:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        labels = ids.clone()
        labels[0, : example.prompt] = -100
        total = total + model(input_ids=ids, labels=labels).loss * (len(example.ids) - example.prompt)
    return total / sum(len(example.ids) - example.prompt for example in batch)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("make", [llama, opt, bloom, gemma2, cohere])
def test_loss_and_gradient_are_hugging_faces(make: type[nn.Module], held: int) -> None:
    """B57, B58: prompts and padding bear no loss, the end token does."""
    model, batch = make(), examples()
    their = their_loss(model, batch)
    their.backward()
    expected = gradients(model)
    objective = LanguageModel(model, FEW)
    assert objective.layout == ("padded" if make in (bloom, gemma2) else "packed")
    assert objective.head == ("own" if make in (gemma2, cohere) else "product")
    assert objective.chunks == (1 if held == 2**25 else 8)
    loss, sums = objective(objective.collate(batch), objective.norms(batch))
    loss.backward()
    assert loss.item() == pytest.approx(their.item(), rel=1e-6)
    assert sums["labels"].item() == objective.norms(batch) == sum(map(objective.labels, batch))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("budget", "ranks"), [(24, 1), (24, 3), (48, 2), (64, 1), (4096, 1), (4096, 5)])
def test_shares_of_any_split_add_up(budget: int, ranks: int, held: int) -> None:
    """B53"""
    model, batch = llama(), examples()
    objective = LanguageModel(model, FEW)
    norms = objective.norms(batch)
    whole, _ = objective(objective.collate(batch), norms)
    whole.backward()
    expected = gradients(model)
    total, lengths = 0.0, [objective.length(example) for example in batch]
    for hand in packed_batches(lengths, budget, ranks):
        for places in hand:
            loss, _ = objective(objective.collate([batch[place] for place in places]), norms)
            loss.backward()
            total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [llama, opt, bloom, gemma2, cohere])
def test_empty_micro_batch_touches_every_parameter_with_nothing(make: type[nn.Module], held: int) -> None:
    model = make()
    objective = LanguageModel(model, FEW)
    loss, sums = objective(objective.collate([]), 7)
    loss.backward()
    assert loss.item() == 0
    assert sums["labels"].item() == 0
    found = gradients(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert not any(gradient.any() for gradient in found.values())


def test_sums_have_the_same_names_for_any_batch() -> None:
    objective = LanguageModel(llama(), FEW)
    names = [list(objective(objective.collate(batch), 7)[1]) for batch in ([], examples())]
    assert names[0] == names[1]


def test_measures() -> None:
    objective = LanguageModel(llama(), FEW)
    assert objective.measures({"labels": 4.0, "nll": 8.0, "bytes": 0.0}) == {"loss": 2.0}
    bits = objective.measures({"labels": 4.0, "nll": 8.0, "bytes": 16.0})["bits_per_byte"]
    assert bits == pytest.approx(8 / np.log(2) / 16)


def test_number_of_pieces_depends_on_the_budget_alone() -> None:
    assert [logprobs.num_chunks(4096, 2000), logprobs.num_chunks(4096, 32000)] == [1, 8]
