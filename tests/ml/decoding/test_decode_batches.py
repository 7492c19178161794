"""What a batch of prompts holds when it is decoded, and that it changes no result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alma_pipeline.ml.decoding import generate, tree
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Sampling
from alma_pipeline.ml.decoding.steps import Capture
from alma_pipeline.ml.decoding.tree_layer import TreeLayer
from helpers.search_model import DECODERS, EOS, LIMITS, PAD, PROMPTS, SAMPLING, replayed, run

pytestmark = pytest.mark.usefixtures("one_thread")


@DECODERS
@pytest.mark.parametrize("budget", [1, 150])
def test_the_budget_changes_no_result(module: object, model: PreTrainedModel, budget: int) -> None:
    limits = replace(LIMITS, decode_tokens=budget)
    assert run(module, model, PROMPTS[:9], Beams(width=3), limits) == run(module, model, PROMPTS[:9], Beams(width=3))


class Watch:
    """What a model was given: (prompts, hypotheses of each, prompts' longest length) of every forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: list[torch.Size] = []
        self.handle = model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        self.shapes.append(kwargs["input_ids"].shape)


def test_no_batch_of_generate_exceeds_the_token_budget(model: PreTrainedModel) -> None:
    """(prompt + max_new_tokens) x beams, summed over the prompts of a batch; a lone prompt may exceed it."""
    prompts = [[0] * 8] * 6
    for budget, at_once in ((3 * 20 * 4, 4), (3 * 20 * 4 - 1, 3), (1, 1)):
        watch = Watch(model)
        run(generate, model, prompts, Beams(width=3), replace(LIMITS, decode_tokens=budget))
        watch.handle.remove()
        assert max(shape[0] // 3 for shape in watch.shapes) == at_once


@pytest.mark.parametrize("settings", [Beams(width=4), SAMPLING])
@pytest.mark.parametrize("steps", [None, replayed])
def test_no_tree_holds_more_than_the_token_budget(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, settings: Beams | Sampling, steps: Capture | None
) -> None:
    """Every block of keys and values, free columns and spare rows included; only a lone sentence may exceed it."""
    held: list[tuple[int, int]] = []
    view = TreeLayer._view

    def watch(layer: TreeLayer, block: int, like: Tensor) -> Tensor:
        found = view(layer, block, like)
        held.append((layer.shape[0], layer.blocks[block].numel() // (like.shape[1] * like.shape[3])))
        return found

    monkeypatch.setattr(TreeLayer, "_view", watch)
    for budget in (1, 170, 400, 900):
        held.clear()
        run(tree, model, PROMPTS, settings, replace(LIMITS, decode_tokens=budget, max_new_tokens=24), steps)
        assert all(tokens <= budget for rows, tokens in held if rows > 1) and (budget < 170 or max(held)[0] > 1)


@pytest.mark.parametrize("settings", [Beams(width=4), SAMPLING])
def test_sentences_make_room_where_outputs_are_longer_than_expected(model: PreTrainedModel, settings: Beams | Sampling) -> None:
    """The newest start again, with the same outputs; a short prompt promises a short output, which these do not keep."""
    prompts, limits = [prompt[:4] for prompt in PROMPTS], replace(LIMITS, max_new_tokens=40, decode_tokens=600)
    assert run(tree, model, prompts, settings, limits) == run(generate, model, prompts, settings, limits)
    assert read_again(model, prompts, settings, limits)


def read_again(model: PreTrainedModel, prompts: list[list[int]], settings: Beams | Sampling, limits: DecodeLimits) -> bool:
    """Whether more prompts were read than there are."""
    with pytest.MonkeyPatch.context() as patch:
        count, read = [0], tree.TreeCache.read

        def watch(cache: tree.TreeCache, some: list[list[int]], first: int) -> None:
            count[0] += len(some)
            read(cache, some, first)

        patch.setattr(tree.TreeCache, "read", watch)
        run(tree, model, prompts, settings, limits)
    return count[0] > len(prompts)


def test_prompts_are_read_in_portions(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which bounds the memory of their activations, and changes no result."""
    expected = run(tree, model, PROMPTS, Beams(width=3))
    monkeypatch.setattr(tree, "READ_TOKENS", 30)
    watch = Watch(model)
    assert run(tree, model, PROMPTS, Beams(width=3)) == expected
    watch.handle.remove()
    longest = max(map(len, PROMPTS)) - 1
    assert watch.shapes[0] == (30 // (longest + 1), longest) and watch.shapes[1][1] <= longest


def test_batches_are_sorted_by_length_and_cover_every_prompt() -> None:
    limits = DecodeLimits(max_new_tokens=10, decode_tokens=60, eos=EOS, pad=PAD)
    assert generate.batches([5, 20, 10, 5, 100], 1, limits) == [[4], [1, 2], [0, 3]]
    assert generate.batches([], 1, limits) == []


def test_trees_refill_and_read_a_prompt_once(model: PreTrainedModel) -> None:
    """A prompt's tokens pass through the model once, not once per beam; late prompts join early ones."""
    watch = Watch(model)
    prompts = [[0] * 10] * 9
    run(tree, model, prompts, Beams(width=4), replace(LIMITS, decode_tokens=3 * 64))
    watch.handle.remove()
    read = [shape for shape in watch.shapes if shape[1] == 9]
    assert sum(shape[0] for shape in read) == 9 and len(read) >= 3
