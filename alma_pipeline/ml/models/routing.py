"""Several adapters on one base: each row of a batch uses the adapter of its prompt (PEFT's mixed-adapter batches).

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
from alma_pipeline.ml.models.full_weights import full_weights
from alma_pipeline.ml.models.load import DTYPES, check_base, device_of, load_adapter, load_full, peft_config, quantization_of
from alma_pipeline.schema import Hardware


def load_with_adapters(
    checkpoints: Mapping[str, Input], hardware: Hardware, precision: str, work: Path | None = None
) -> PreTrainedModel:
    """One model with the last adapter of each checkpoint, named like the checkpoint, on this process's device.

    Raises UserError unless all checkpoints are adapters on the same base with the same adapters merged.
    """
    first = next(iter(checkpoints.values()))
    _check_alike(checkpoints)
    # Everything below the last adapters is shared, so it is merged once.
    below = first.adapters[:-1]
    with full_weights(first, below, precision, work) as base:
        model: Any = load_full(base, DTYPES[precision], device_of(hardware))
    # Each adapter keeps its name: the router selects by it.
    for name, checkpoint in checkpoints.items():
        folder = Path(checkpoint.adapters[-1])
        check_base(folder, checkpoint.base_key, checkpoint.adapter_keys[:-1])
        shape = peft_config(folder, dropout=0.0)
        if isinstance(model, PeftModel):
            model.add_adapter(name, shape, autocast_adapter_dtype=False)
        else:
            model = get_peft_model(model, shape, adapter_name=name, autocast_adapter_dtype=False)
        load_adapter(model, folder, name)
    inner: PreTrainedModel = model.get_base_model()
    return inner.eval()


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
