"""Decide by trial, when a model is loaded, whether it is correct on packed rows; `trial` runs it.

Some architectures do not let attention be replaced; others encode token order in attention itself (ALiBi), or count
positions on their own. On packed rows these would run and be wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alma_pipeline.ml.models.causal import causal_model, hidden_states
from alma_pipeline.ml.training import trial
from alma_pipeline.ml.training.attention import install
from alma_pipeline.ml.training.layouts import Item, Rows, packed, padded
from alma_pipeline.ml.training.prefetch import to_device

Layout = Callable[[Sequence[Item]], Rows]
LAYOUTS: dict[str, Layout] = {"packed": packed, "padded": padded}
"""The layouts by name."""
TRIAL_SIZES = ((4, 3, 5), (2, 6), (3, 2, 4))
"""Tokens of the trial's prompts and answers: two pairs, and a single answer between them."""
TOLERANCE = 0.1
"""Largest allowed difference between packed and separate states, relative to the difference made by examples that do
see each other: far above 16-bit rounding, far below any leak (our choice).
"""


def choose_layout(model: nn.Module) -> str:
    """`packed`, with `model` set up to attend through `attention.packed_attention`; or `padded`, with `model` unchanged.

    A collective call in a process group, with one answer for all ranks.
    """
    causal = causal_model(model)
    before = causal.config._attn_implementation

    # Any of these errors means that the architecture does not support packed rows.
    def is_right() -> bool:
        try:
            return _is_right(model, _trial(causal.config.get_text_config().vocab_size))
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            return False

    try:
        install(causal)
        is_possible = True
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        is_possible = False
    is_packed = is_possible and trial.passes(model, is_right)
    if not is_packed:
        causal.set_attn_implementation(before)
    return "packed" if is_packed else "padded"


def _trial(vocabulary: int) -> list[Item]:
    """Items of random tokens, always the same."""
    random = np.random.default_rng(0)
    texts = [[random.integers(0, vocabulary, size, np.int32) for size in sizes] for sizes in TRIAL_SIZES]
    return [Item(prompt, tuple(answers)) for prompt, *answers in texts]


def _is_right(model: nn.Module, items: list[Item]) -> bool:
    """Whether packed states equal those of each answer run alone."""
    alone = torch.cat([_states(model, padded([Item(item.prompt, (answer,))])) for item in items for answer in item.answers])
    together = _states(model, packed(items))
    # The scale: how much states change if all items form one sequence.
    joined = [Item(items[0].prompt, (np.concatenate([part for item in items for part in (item.prompt, *item.answers)]),))]
    mixed = _states(model, padded(joined))[-len(alone) :]
    return bool((together - alone).norm() <= TOLERANCE * (mixed - alone).norm())


def _states(model: nn.Module, rows: Rows) -> Tensor:
    """[labels, hidden] float32 states that predict the labels, on the model's device."""
    device = next(model.parameters()).device
    return hidden_states(model, to_device(rows.inputs, device)).flatten(0, 1).index_select(0, rows.positions.to(device)).float()
