"""Several unmerged adapters on one base: each row of a batch uses that of its prompt (PEFT's mixed-adapter batches), or all are
used together.

X-ALMA's all-in-one model does the same with custom code. Knows no languages: the caller assigns adapters to prompts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models import nf4
from alma_pipeline.ml.models.full_weights import full_weights
from alma_pipeline.ml.models.load import (
    DTYPES,
    cast_weights,
    check_base,
    device_of,
    load_adapter,
    load_full,
    peft_config,
    quantization_of,
    rounded_from,
)
from alma_pipeline.schema import Hardware


def load_with_adapters(
    checkpoints: Mapping[str, Input], hardware: Hardware, precision: str, work: Path | None = None, quantization: str = "none"
) -> PreTrainedModel:
    """One model with the last adapter of each checkpoint, named like the checkpoint, on this process's device.

    `work`: see `full_weights`. Raises UserError unless all checkpoints are adapters on the same base with the same adapters
    merged, and with `quantization` nf4 if there are such: a base in 4 bits takes no merge.
    """
    first = next(iter(checkpoints.values()))
    _check_alike(checkpoints)
    # Everything below the last adapters is shared, so it is merged once.
    below = first.adapters[:-1]
    if quantization == nf4.KIND and below:
        raise UserError(
            "quantization=nf4: each sentence is routed to one adapter, but others must be merged below it, which a base in 4 "
            "bits does not take; use quantization=none"
        )
    if quantization == nf4.KIND:
        model: Any = _in_4_bits(first, hardware, precision)
    else:
        with full_weights(first, below, precision, work) as base:
            model = load_full(base, DTYPES[precision], device_of(hardware))
    # Each adapter keeps its name: the router selects by it.
    for name, checkpoint in checkpoints.items():
        model = _with_adapter(model, checkpoint, len(below), name)
    return _finished(model, precision)


def load_unmerged(checkpoint: Input, hardware: Hardware, precision: str) -> PreTrainedModel:
    """The checkpoint on this process's device, its full model's matrices in 4 bits and all adapters beside them.

    Everything else, and all arithmetic, is in `precision`. Raises UserError for an adapter of another base.
    """
    model: Any = _in_4_bits(checkpoint, hardware, precision)
    names = [str(number) for number in range(len(checkpoint.adapters))]
    for number, name in enumerate(names):
        model = _with_adapter(model, checkpoint, number, name)
    # An adapter that was trained with others merged adds to what these give.
    if names:
        model.base_model.set_adapter(names)
    return _finished(model, precision)


def _in_4_bits(checkpoint: Input, hardware: Hardware, precision: str) -> PreTrainedModel:
    """The full model under the adapters, rounded from what it was rounded from when they were trained."""
    dtype = DTYPES[rounded_from(checkpoint) or precision]
    return nf4.load_nf4(Path(checkpoint.base), dtype, DTYPES[precision], device_of(hardware))


def _with_adapter(model: Any, checkpoint: Input, number: int, name: str) -> PeftModel:
    """The model with adapter `number` of the checkpoint on it, under `name`."""
    folder = Path(checkpoint.adapters[number])
    check_base(folder, checkpoint.base_key, checkpoint.adapter_keys[:number])
    shape = peft_config(folder, dropout=0.0)
    if isinstance(model, PeftModel):
        model.add_adapter(name, shape, autocast_adapter_dtype=False)
    else:
        model = get_peft_model(model, shape, adapter_name=name, autocast_adapter_dtype=False)
    load_adapter(model, folder, name)
    return model


def _finished(model: Any, precision: str) -> PreTrainedModel:
    """The causal model with its LoRA layers in place, for inference; adapters on 4 bits are in fp32 until here."""
    inner: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast_weights(inner, DTYPES[precision]).eval()


def _check_alike(checkpoints: Mapping[str, Input]) -> None:
    bare = [name for name, checkpoint in checkpoints.items() if not checkpoint.adapters]
    if bare:
        raise UserError(f"{', '.join(bare)}: expected adapters on a shared base, found a full model")
    below = {
        name: (checkpoint.base_key, *checkpoint.adapter_keys[:-1], *_rounding(checkpoint))
        for name, checkpoint in checkpoints.items()
    }
    if len(set(below.values())) > 1:
        found = "; ".join(f"{name} on {' + '.join(key[:12] for key in keys)}" for name, keys in below.items())
        raise UserError(f"the adapters have different bases, so they cannot share one: {found}. Translate one group at a time")


def _rounding(checkpoint: Input) -> list[str]:
    held = quantization_of(Path(checkpoint.adapters[0]))
    return [] if held == "none" else [held]


class Router:
    """Selects the adapter of each row in every LoRA layer of a model; to be passed to a decoder as `on_rows`."""

    def __init__(self, model: nn.Module, adapters: Sequence[str]) -> None:
        """`adapters`: the adapter's name for each prompt."""
        self.adapters = adapters
        self.rows: list[str] = []
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.register_forward_pre_hook(self._inject, with_kwargs=True)

    def __call__(self, prompts: list[int]) -> None:
        """Before a forward pass: `prompts` holds the prompt index of each row."""
        self.rows = [self.adapters[prompt] for prompt in prompts]

    def _inject(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, named | {"adapter_names": self.rows}
