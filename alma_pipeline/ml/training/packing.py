"""Whether a model may be trained on packed rows: tried on the model itself when it is loaded, not looked up in a list.

Some architectures take no attention function from outside, some hide the order of tokens in attention itself (ALiBi)
or in positions they count on their own; packed, they would run and be wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alma_pipeline.ml.models.causal import causal_model, hidden_states
from alma_pipeline.ml.training.attention import install
from alma_pipeline.ml.training.layouts import Item, Rows, packed, padded
from alma_pipeline.ml.training.prefetch import moved

Layout = Callable[[Sequence[Item]], Rows]
LAYOUTS: dict[str, Layout] = {"packed": packed, "padded": padded}
SIZES = ((4, 3, 5), (2, 6), (3, 2, 4))
"""Tokens of the trial's prompts and answers: pairs, and a single answer between them."""
TOLERANCE = 0.1
"""Largest difference between packed and separate states that passes, as a share of the difference that examples make
when they do see each other: far above rounding in 16 bits, far below any leak."""


def choose(model: nn.Module) -> str:
    """`packed`, and `model` then attends through `attention.packed_attention`, or `padded`, and it is as it was."""
    causal = causal_model(model)
    before = causal.config._attn_implementation
    is_training = model.training
    model.eval()
    try:
        install(causal)
        is_right = _is_right(model, _trial(causal.config.get_text_config().vocab_size))
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        is_right = False
    finally:
        model.train(is_training)
    if not is_right:
        causal.set_attn_implementation(before)
    return "packed" if is_right else "padded"


def _trial(vocabulary: int) -> list[Item]:
    random = np.random.default_rng(0)
    texts = [[random.integers(0, vocabulary, size, np.int32) for size in sizes] for sizes in SIZES]
    return [Item(prompt, tuple(answers)) for prompt, *answers in texts]


def _is_right(model: nn.Module, items: list[Item]) -> bool:
    """Whether packed states are those of each answer run alone."""
    alone = torch.cat([_states(model, padded([Item(item.prompt, (answer,))])) for item in items for answer in item.answers])
    together = _states(model, packed(items))
    joined = [Item(items[0].prompt, (np.concatenate([part for item in items for part in (item.prompt, *item.answers)]),))]
    mixed = _states(model, padded(joined))[-len(alone) :]
    return bool((together - alone).norm() <= TOLERANCE * (mixed - alone).norm())


@torch.no_grad()
def _states(model: nn.Module, rows: Rows) -> Tensor:
    """[labels, hidden] states that predict the labels, wherever the model is."""
    device = next(model.parameters()).device
    return hidden_states(model, moved(rows.inputs, device)).flatten(0, 1).index_select(0, rows.positions.to(device)).float()
