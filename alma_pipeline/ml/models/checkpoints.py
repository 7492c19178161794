"""Gather a trained model's weights from all ranks, write them as a checkpoint, and verify it by reading it back.

When to write, and which checkpoint to keep, is decided in `training`.
"""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alma_pipeline import files
from alma_pipeline.errors import PipelineError
from alma_pipeline.ml.models.load import BASE_FILE, load_full
from alma_pipeline.ml.models.open import TrainableModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
State = dict[str, Tensor]
"""A state dict: tensors by parameter name."""


def gather_state(trainee: TrainableModel, first: bool) -> State:
    """Full CPU tensors by name: the adapter's, or all of a full model's. A collective call.

    Under ZeRO-3 each rank holds a slice of every parameter. Only the first rank (`first`) gets the tensors, the others {}.
    """
    state = {}
    for name, parameter in trainee.model.named_parameters():
        if trainee.form == "adapter" and not parameter.requires_grad:
            continue
        # `ds_id` marks a parameter that ZeRO-3 has sliced.
        unsliced = deepspeed.zero.GatheredParameters([parameter]) if hasattr(parameter, "ds_id") else nullcontext()
        with unsliced:
            if first:
                state[name] = parameter.detach().to("cpu", copy=True)
    # PEFT stores an adapter's tensors without the adapter's name in them.
    if trainee.form == "adapter":
        return get_peft_model_state_dict(trainee.model, state, save_embedding_layers=False) if first else {}
    return state | _buffers(trainee.model) if first else {}


def write_checkpoint(trainee: TrainableModel, state: State, folder: Path, moved: bool) -> None:
    """Write gathered weights as a checkpoint folder, atomically, with the tokenizer files beside them.

    `moved`: whether the weights have been updated, in which case an all-zero LoRA is an error.
    Raises PipelineError if `state` is not plausible, or reads back differently.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = files.new_folder_beside(folder)
    # Refuse bad weights before anything is written.
    check_state(state, moved)
    if trainee.form == "adapter":
        _write_adapter(trainee, state, unfinished)
        found = load_file(unfinished / "adapter_model.safetensors")
    else:
        trainee.model.save_pretrained(unfinished, state_dict=dict(state))
        found = load_full(unfinished, next(iter(state.values())).dtype).state_dict()
    # Read the files back: a silent loss of weights must not become an artifact.
    _compare(state, found, unfinished)
    # A checkpoint is usable on its own, so it carries its tokenizer.
    for name in TOKENIZER_FILES:
        if (trainee.tokenizer / name).is_file():
            shutil.copyfile(trainee.tokenizer / name, unfinished / name)
    files.put_in_place(unfinished, folder)


def check_state(state: State, moved: bool) -> None:
    """Raises PipelineError for tensors that training never produces: empty, non-finite, or a LoRA that is still 0."""
    empty = [name for name, tensor in state.items() if not tensor.numel()]
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    still = [name for name, tensor in state.items() if moved and "lora_B" in name and not tensor.any()]
    for names, what in ((empty, "are empty"), (broken, "contain NaN or infinity"), (still, "are still 0 after training")):
        if names:
            raise PipelineError(f"refusing to save: {len(names)} of {len(state)} tensors {what}, e.g. {names[:3]}")


def _compare(state: State, found: State, folder: Path) -> None:
    lost = [name for name in state if name not in found]
    changed = [name for name in state if name in found and not torch.equal(state[name], found[name])]
    if lost or changed:
        raise PipelineError(f"{folder} reads back differently: missing {lost[:3]}, changed {changed[:3]}")


def _write_adapter(trainee: TrainableModel, state: State, folder: Path) -> None:
    """Write a PEFT folder. It names its base by key, and by folder name for human readers; never by path."""
    config = replace(trainee.model.peft_config["default"], base_model_name_or_path=trainee.base.name, inference_mode=True)
    config.save_pretrained(str(folder))
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors", {"format": "pt"}
    )
    base: dict[str, Any] = {"base_key": trainee.base_key, "merged": list(trainee.merged)}
    base |= {} if trainee.quantization == "none" else {"quantization": trainee.quantization, "quantized_from": trainee.precision}
    (folder / BASE_FILE).write_text(json.dumps(base, indent=1) + "\n", encoding="utf-8")


def _buffers(model: nn.Module) -> State:
    """Persistent buffers; ZeRO does not slice them."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items() if name not in parameters}
