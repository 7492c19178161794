"""Trials on a loaded model: by which rank, on which device and with how much of the model. What is tried is not known here.

A trial costs seconds however large the model is: it runs the first layers only, on the device and in the precision of training,
once per machine.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from alma_pipeline.ml import distributed
from alma_pipeline.ml.models.causal import causal_model

LAYERS = 8
"""Layers that a trial runs. Architectures that alternate between kinds of layers do so in periods of at most 6 (Gemma 3) or 8
(Jamba); see also `_depth`."""


def passes(model: nn.Module, attempt: Callable[[], bool]) -> bool:
    """Whether `attempt`, which runs `model`, is true; one answer for all ranks, which all call this.

    The first rank of each machine makes the attempt, without gradients and dropout. `attempt` sees the model's first layers
    only, and on the device of training; afterwards the model is as it was.
    """
    is_training = model.training
    model.eval()
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        with _first_layers(model), _gathered(model), _moved(model) if is_first else nullcontext(), torch.no_grad():
            found = attempt() if is_first else True
    finally:
        model.train(is_training)
    # Ranks that disagree would split a batch differently, or deadlock.
    return all(distributed.all_gather(found)) if torch.distributed.is_initialized() else found


@contextmanager
def _first_layers(model: nn.Module) -> Iterator[None]:
    """Within this context the model has its first layers only; all of them where they cannot be told from other modules."""
    causal = causal_model(model)
    config = causal.config.get_text_config()
    depth, count = _depth(config), getattr(config, "num_hidden_layers", 0)
    lists = [
        (parent, name, child)
        for parent in causal.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(lists) != 1 or count <= depth:
        yield
        return
    [(parent, name, layers)] = lists
    # Models choose a layer's mask by its place, so a trial takes the first ones and no selection.
    setattr(parent, name, layers[:depth])
    try:
        yield
    finally:
        setattr(parent, name, layers)


def _depth(config: object) -> int:
    """How many layers a trial needs: `LAYERS`, or more until one of each kind that the config names is among them."""
    kinds = list(getattr(config, "layer_types", None) or [])
    return max([LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds))])


def _gathered(model: nn.Module) -> AbstractContextManager[Any]:
    """Within this context parameters that ZeRO-3 has sliced are whole. A collective call."""
    sliced = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    return deepspeed.zero.GatheredParameters(sliced) if sliced else nullcontext()


@contextmanager
def _moved(model: nn.Module) -> Iterator[None]:
    """Within this context the model is on the device of training; then its tensors are again what they were, not copies."""
    device = distributed.device()
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    before = [(tensor, tensor.data) for tensor in tensors if tensor.device.type == "cpu" != device.type]
    try:
        for tensor, data in before:
            tensor.data = _copied(data, device)
        yield
    finally:
        for tensor, data in before:
            tensor.data = data
        if before:
            torch.cuda.empty_cache()  # DeepSpeed needs the memory in large pieces


def _copied(data: Tensor, device: torch.device) -> Tensor:
    return data.to(device)
