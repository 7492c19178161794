"""Samples: decided by seed and index, drawn by their share of the nucleus."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from alma_pipeline.ml.decoding import decode, generate, tree
from alma_pipeline.ml.decoding.search import Results, Sampling, invert, noise
from helpers.search_model import DECODERS, LIMITS, PROMPTS, SAMPLING, run

pytestmark = pytest.mark.usefixtures("one_thread")


@DECODERS
def test_samples_do_not_depend_on_the_batch(module: object, model: PreTrainedModel) -> None:
    together = run(module, model, PROMPTS, SAMPLING)
    single: Results = {}
    for index, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            module.decode(model, {index: prompt}, SAMPLING, LIMITS, single.update, lambda rows: None)  # type: ignore[attr-defined]
    assert together == [single[index] for index in range(len(PROMPTS))]
    assert {len(samples) for samples in together} == {3}


def test_both_decoders_draw_the_same_samples(model: PreTrainedModel) -> None:
    assert run(tree, model, PROMPTS, SAMPLING) == run(generate, model, PROMPTS, SAMPLING)


def test_the_seed_and_the_index_decide_the_samples(model: PreTrainedModel) -> None:
    same = [PROMPTS[3]] * 6
    found = decode.sample(model, same, SAMPLING, LIMITS)
    assert found == decode.sample(model, same, SAMPLING, LIMITS)
    assert found != decode.sample(model, same, replace(SAMPLING, seed=6), LIMITS)
    assert len({str(samples) for samples in found}) > 1, "equal prompts have noise of their own"
    assert any(len({str(sample) for sample in samples}) > 1 for samples in found)


def test_cold_and_narrow_sampling_is_greedy(model: PreTrainedModel) -> None:
    greedy = decode.greedy(model, PROMPTS, LIMITS)
    for settings in (replace(SAMPLING, temperature=1e-4), replace(SAMPLING, top_p=1e-6)):
        assert decode.sample(model, PROMPTS, settings, LIMITS) == [[output] * 3 for output in greedy]


def test_tokens_are_drawn_by_their_share_of_the_nucleus() -> None:
    """0.5, 0.3, 0.15, 0.05 at top_p 0.9: the last one never, the others by their renormalised shares."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(20_000, -1)
    drawn = torch.from_numpy(noise(1, 2, (20_000,)))
    settings = Sampling(width=1, temperature=1.0, top_p=0.9, seed=0)
    shares = torch.bincount(invert(logits, drawn, settings), minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95], abs=0.01)
    whole = torch.bincount(invert(logits, drawn, replace(settings, top_p=1.0)), minlength=4) / 20_000
    assert whole.tolist() == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=0.01)
    hot = torch.bincount(invert(logits, drawn, replace(settings, temperature=2.0, top_p=1.0)), minlength=4) / 20_000
    roots = torch.tensor([0.15, 0.5, 0.05, 0.3]).sqrt()
    assert hot.tolist() == pytest.approx((roots / roots.sum()).tolist(), abs=0.01)


def test_a_flat_distribution_over_a_large_vocabulary_uses_all_of_the_nucleus() -> None:
    """More pieces than the shortcut looks at: the nucleus is then found by a full sort."""
    drawn = torch.linspace(0, 0.9999, 2000)
    settings = Sampling(width=1, temperature=1.0, top_p=0.5, seed=0)
    logits = torch.linspace(1e-4, 0, 2000).expand(2000, -1)
    found = invert(logits, drawn, settings)
    assert int(found.max()) in (999, 1000) and len(found.unique()) == 1000


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_pick_a_piece_of_the_nucleus(edge: float) -> None:
    logits = torch.tensor([[-1000.0, 0.0, -1000.0, 0.0, -1000.0]])
    for top_p in (0.9, 1.0):
        settings = Sampling(width=1, temperature=1.0, top_p=top_p, seed=0)
        assert int(invert(logits, torch.tensor([edge]), settings)) == (1 if edge == 0 else 3)
