"""Packed rows against examples run alone, on architectures that allow them; and those that do not are found out."""

import math

import numpy as np
import pytest
import torch
import transformers

from alma_pipeline.ml.training.attention import NAME, unpacked_attention
from alma_pipeline.ml.training.layouts import Item, packed, padded
from alma_pipeline.ml.training.packing import choose_layout
from helpers.architectures import EXPECTED, PACKED, VOCABULARY, make, make_items, scores, separately


@pytest.mark.parametrize("name", EXPECTED)
def test_layout_is_found_by_trying(name: str) -> None:
    model = make(name)
    before = model.config._attn_implementation
    assert choose_layout(model) == EXPECTED[name][0]
    assert model.config._attn_implementation == (NAME if EXPECTED[name][0] == "packed" else before)


@pytest.mark.parametrize("name", PACKED)
def test_packed_is_separate_in_loss_and_gradient(name: str) -> None:
    """In float64; the sliding window is kept, the prompt of two answers stands once."""
    model, items = make(name), make_items()
    weights = torch.randn(sum(len(answer) for item in items for answer in item.answers), dtype=torch.float64)
    expected = separately(model, items)
    slopes = torch.autograd.grad((expected * weights).sum(), list(model.parameters()))
    assert choose_layout(model) == "packed"
    found = scores(model, items)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for slope, other in zip(slopes, torch.autograd.grad((found * weights).sum(), list(model.parameters())), strict=True):
        # transformers' RMSNorm works in float32 whatever the model's type.
        torch.testing.assert_close(other, slope, rtol=1e-4, atol=1e-5)


def test_blocks_of_one_length_are_not_copied_and_do_not_see_each_other() -> None:
    """What `mono` trains on: the row is taken as it is."""
    model, random = make("Llama"), np.random.default_rng(1)
    blocks = [Item(ids[:1], (ids[1:],)) for ids in random.integers(0, VOCABULARY, (3, 7), np.int32)]
    expected = separately(model, blocks)
    choose_layout(model)
    assert "places" not in packed(blocks).inputs
    torch.testing.assert_close(scores(model, blocks), expected, rtol=1e-6, atol=1e-6)
    shorter = [*blocks, Item(blocks[0].prompt, (blocks[0].answers[0][:3],))]
    assert "places" in packed(shorter).inputs


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize(("part", "moves"), [("prompt", [1, 2]), ("chosen", [1]), ("rejected", [2])])
def test_no_example_sees_another(name: str, part: str, moves: list[int]) -> None:
    """Changing the prompt of an item, or one of its answers, moves the log-probabilities of nothing else, bit for bit."""
    model, items = make(name), make_items()
    choose_layout(model)
    prompt, answers = items[1]
    parts = {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    parts[part] = (parts[part] + 7) % VOCABULARY
    changed = [items[0], Item(parts["prompt"], (parts["chosen"], parts["rejected"])), *items[2:]]
    sizes = [len(answer) for item in items for answer in item.answers]
    before, after = (scores(model, found).split(sizes) for found in (items, changed))
    assert [place for place, size in enumerate(sizes) if not torch.equal(before[place], after[place])] == moves


@pytest.mark.parametrize("name", PACKED)
def test_no_block_sees_another(name: str) -> None:
    model, random = make(name), np.random.default_rng(1)
    choose_layout(model)
    ids = random.integers(0, VOCABULARY, (3, 7), np.int32)
    before = scores(model, [Item(row[:1], (row[1:],)) for row in ids]).split([6, 6, 6])
    ids[1] = (ids[1] + 7) % VOCABULARY
    after = scores(model, [Item(row[:1], (row[1:],)) for row in ids]).split([6, 6, 6])
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_gradient_checkpointing_recomputes_packed_attention() -> None:
    model, items = make("Llama"), make_items()
    choose_layout(model)
    expected = torch.autograd.grad(scores(model, items).sum(), list(model.parameters()))
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    found = torch.autograd.grad(scores(model, items).sum(), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_set_up_for_packing_still_takes_padded_rows_and_generates() -> None:
    model, items = make("Llama"), make_items()
    expected = scores(model, items, padded)
    before = model.config._attn_implementation
    prompt = torch.tensor([[3, 4, 5]])
    generated = model.generate(prompt, max_new_tokens=6, do_sample=False)
    choose_layout(model)
    torch.testing.assert_close(scores(model, items, padded), expected)
    with unpacked_attention(model, before):
        assert model.config._attn_implementation == before
        assert torch.equal(model.generate(prompt, max_new_tokens=6, do_sample=False), generated)
    assert model.config._attn_implementation == NAME


def test_attention_that_is_not_known_is_refused_rather_than_left_out() -> None:
    """A model that caps attention scores: its packed states would be wrong."""
    model = make("Llama")
    states = torch.randn(1, 4, 1, 4)
    attention = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
    choose_layout(model)
    rows = packed([Item(np.array([1], np.int32), (np.array([], np.int32),))]).inputs
    with pytest.raises(NotImplementedError, match=r"no \['softcap'\]"):
        attention[NAME](model, states, states, states, None, sequences=rows["sequences"], softcap=30.0)
    assert math.isfinite(states.sum())
