"""Load a full model, or an adapter onto one, from a folder, and check that they belong together. Merges and trains nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models import nf4
from alma_pipeline.schema import Hardware

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU = torch.device("cpu")
ADAPTER_FILE = "adapter_model.safetensors"
BASE_FILE = "base.json"
"""File beside an adapter: keys of its full base model and of the adapters merged into that base first; for an adapter that was
trained on NF4 weights, also the precision that those were rounded from."""


def load_base_model(checkpoint: Input) -> PreTrainedModel:
    """The full model under the checkpoint's adapters in fp32; if those were trained on NF4 weights, the same to the bit."""
    trained_in = rounded_from(checkpoint)
    if not trained_in:
        return load_full(Path(checkpoint.base), torch.float32)
    return nf4.round_to_nf4(load_full(Path(checkpoint.base), DTYPES[trained_in])).to(torch.float32)


def device_of(hardware: Hardware) -> torch.device:
    """This process's device."""
    return torch.device("cpu") if hardware.device == "cpu" else torch.device("cuda", torch.cuda.current_device())


def load_full(folder: Path, dtype: torch.dtype, device: torch.device = CPU) -> PreTrainedModel:
    """A Hugging Face folder as a model on `device`, with all dropout set to 0.

    Its files are mapped into memory and moved tensor by tensor: on a CPU, weights stored in `dtype` take no memory of their own,
    and processes of a machine share them until they change them.
    Raises PipelineError if tensors are missing, unexpected or of another shape.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in vars(config):
        if name.endswith(("dropout", "pdrop", "layerdrop")):
            setattr(config, name, 0.0)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        device_map=None if device == CPU else {"": device},
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    if wrong:
        raise PipelineError(f"{folder} does not contain the model that its config.json describes: {wrong}")
    loaded: PreTrainedModel = model
    return loaded


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Cast the weights to `dtype` in place, but not what a model computes for itself: rotary frequencies stay in fp32.

    So they do in a model that was loaded in `dtype`, and in training; `model.to` would round them, by up to 0.4 %.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def load_adapter(model: PeftModel, folder: Path, name: str = "default") -> None:
    """Load a PEFT folder into the LoRA named `name` of `model`. Raises PipelineError unless all tensors match one to one."""
    state = load_file(folder / ADAPTER_FILE)
    # PEFT reports as missing what belongs to the base too, so ask it what it would save: biases and whole modules as well.
    missing = sorted(set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)) - set(state))
    unexpected = [] if missing else list(set_peft_model_state_dict(model, state, adapter_name=name).unexpected_keys)
    refuse_unmatched(folder, missing, unexpected)


def refuse_unmatched(folder: Path, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Raises PipelineError if the tensors of an adapter and those of the model it is loaded into do not match."""
    if missing or unexpected:
        raise PipelineError(
            f"{folder} does not match the model it is loaded into: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )


def check_base(folder: Path, base_key: str, merged: Sequence[str]) -> None:
    """Raises UserError unless the adapter in `folder` was trained on this base with these adapters merged."""
    found = _base_file(folder)
    for rounding in ("quantization", "quantized_from"):
        found.pop(rounding, None)
    expected = {"base_key": base_key, "merged": list(merged)}
    if found != expected:
        raise UserError(f"the adapter in {folder} was trained on another base: found {found}, expected {expected}")


def quantization_of(folder: Path) -> str:
    """How the base's weights were held when the adapter in `folder` was trained: `nf4` or `none`."""
    return str(_base_file(folder).get("quantization", "none"))


def rounded_from(checkpoint: Input) -> str:
    """The precision from which the 4-bit weights under the checkpoint's adapters were rounded; empty if they were not.

    NF4's scales, and so all weights, depend on it.
    """
    if not checkpoint.adapters or quantization_of(Path(checkpoint.adapters[0])) != nf4.KIND:
        return ""
    return str(_base_file(Path(checkpoint.adapters[0])).get("quantized_from", "fp32"))


def _base_file(folder: Path) -> dict[str, Any]:
    file = folder / BASE_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {BASE_FILE}, which names the base of its adapter; adopt the adapter again")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def refuse_tied(model: PeftModel, adapter: str) -> None:
    """Raises UserError if a LoRA is on the output head or the input embeddings of a model whose two share one matrix.

    Merged, it would change both sides; trained, it changed one. `adapter` names the LoRA in the message.
    """
    causal = model.get_base_model()
    ends = causal.get_output_embeddings(), causal.get_input_embeddings()
    changed = [end for end in ends if isinstance(end, LoraLayer)]
    if changed and ends[0] is not None and ends[0].weight is ends[1].weight:
        names = [name.rpartition(".")[2] for name, module in causal.named_modules() if module in changed]
        raise UserError(
            f"{adapter} changes {', '.join(names)}, but this model's output head is its input embeddings (tie_word_embeddings), "
            "so that merging would change both; use a LoRA without it"
        )


def peft_config(folder: Path, dropout: float) -> LoraConfig:
    """The config of the LoRA in a PEFT folder, with this dropout. Raises UserError if it is not a LoRA with listed targets."""
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or isinstance(config.target_modules, str):
        raise UserError(f"{folder} contains a {type(config).__name__}; expected a LoRA with a list of target modules")
    config.lora_dropout = dropout
    config.base_model_name_or_path = None
    return config
