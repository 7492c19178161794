"""What a batch of prompts holds when it is decoded, and that it changes no result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alma_pipeline.ml.decoding import generate, tree
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits
from helpers.search_model import DECODERS, EOS, LIMITS, PAD, PROMPTS, run

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


@DECODERS
def test_no_batch_exceeds_the_token_budget(module: object, model: PreTrainedModel) -> None:
    """(prompt + max_new_tokens) x beams, summed over the prompts of a batch; a lone prompt may exceed it."""
    prompts = [[0] * 8] * 6
    for budget, at_once in ((3 * 20 * 4, 4), (3 * 20 * 4 - 1, 3), (1, 1)):
        watch = Watch(model)
        run(module, model, prompts, Beams(width=3), replace(LIMITS, decode_tokens=budget))
        watch.handle.remove()
        rows = {"plain": [shape[0] // 3 for shape in watch.shapes], "tree": [shape[0] for shape in watch.shapes]}
        assert max(rows["tree" if module is tree else "plain"]) == at_once


def test_batches_are_sorted_by_length_and_cover_every_prompt() -> None:
    limits = DecodeLimits(max_new_tokens=10, decode_tokens=60, eos=EOS, pad=PAD)
    assert generate.batches([5, 20, 10, 5, 100], 1, limits) == [[4], [1, 2], [0, 3]]
    assert generate.batches([], 1, limits) == []


def test_trees_refill_and_read_a_prompt_once(model: PreTrainedModel) -> None:
    """A prompt's tokens pass through the model once, not once per beam; late prompts join early ones."""
    watch = Watch(model)
    prompts = [[0] * 10] * 9
    run(tree, model, prompts, Beams(width=4), replace(LIMITS, decode_tokens=4 * 22 * 3))
    watch.handle.remove()
    read = [shape for shape in watch.shapes if shape[1] == 9]
    assert sum(shape[0] for shape in read) == 9 and len(read) >= 3
