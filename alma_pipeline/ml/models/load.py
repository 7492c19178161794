"""Load models from checkpoints: for training with the adapter a node requests, or merged for decoding. Writes nothing.

A checkpoint is a full model and the adapters on top of it, in order.
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml import rng
from alma_pipeline.ml.models import nf4
from alma_pipeline.schema import Hardware, Lora, Training

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BASE_FILE = "base.json"
"""File beside an adapter: keys of its full base model and of the adapters merged into that base first."""


@dataclass(frozen=True)
class TrainableModel:
    """A model ready for training, and the provenance that its checkpoint records."""

    model: PreTrainedModel | PeftModel
    """On the CPU in the node's precision, or on the device with 4-bit matrices; only trained parameters require gradients."""
    form: str
    """What is trained and saved: `full` or `adapter`."""
    base: Path
    """Folder of the full model."""
    base_key: str
    merged: tuple[str, ...]
    """Keys of the adapters merged into the base before training, in order."""
    quantization: str
    """`nf4` if the base's matrices are held in 4 bits, else `none`."""
    tokenizer: Path
    """Folder with the tokenizer files to copy into the checkpoint."""


def open_for_training(init: Input, config: Training, hardware: Hardware, dropout: float) -> TrainableModel:
    """Load the parent `init` with the adapter that `config` requests; `dropout` is LoRA's, all other dropout is 0.

    A new adapter is initialised from `config.seed`, equally on every rank.
    Raises UserError if the parent lacks what `config.adapter` needs.
    """
    # Every rank must draw the same new adapter.
    rng.seed(config.seed, rank=0)
    # All adapters below the one that is trained become part of the weights.
    continued = _adapter_to_continue(init, config.adapter)
    merge = init.adapters[: len(init.adapters) - len(continued)]
    # 4-bit weights cannot take a merge: the sum would have to be rounded again.
    if config.quantization == nf4.KIND:
        if merge:
            raise UserError(
                "quantization=nf4 needs a full model under the adapter, but other adapters must be merged into it first; "
                "use quantization=none"
            )
        model = nf4.load_nf4(Path(init.base), DTYPES[config.precision], hardware)
    else:
        model = load_merged(init, merge, config.precision)
    if config.adapter != "none":
        model = _new_adapter(model, config.lora, dropout) if not continued else _continue_adapter(model, init, config, dropout)
    if hardware.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return TrainableModel(
        model=model,
        form="full" if config.adapter == "none" else "adapter",
        base=Path(init.base),
        base_key=init.base_key,
        merged=tuple(init.adapter_keys[: len(merge)]),
        tokenizer=Path(init.path),
        quantization=config.quantization,
    )


def load_for_inference(checkpoint: Input, hardware: Hardware, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The checkpoint with all adapters merged, in evaluation mode on this process's device, and its tokenizer."""
    model = load_merged(checkpoint, checkpoint.adapters, precision)
    device = "cpu" if hardware.device == "cpu" else torch.device("cuda", torch.cuda.current_device())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    return model.to(device).eval(), tokenizer


def free_device_memory() -> None:
    """Free the memory of deleted models, so that another process can use the device."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing if CUDA was not used


def load_merged(checkpoint: Input, adapters: Sequence[str], precision: str) -> PreTrainedModel:
    """The full model of `checkpoint` with its first `adapters` merged in fp32, then cast once to `precision`, on the CPU."""
    if not adapters:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    model = load_base_model(checkpoint, "fp32")
    for number, folder in enumerate(adapters):
        check_base(Path(folder), checkpoint.base_key, checkpoint.adapter_keys[:number])
        wrapped = get_peft_model(model, peft_config(Path(folder), dropout=0.0), autocast_adapter_dtype=False)
        load_adapter(wrapped, Path(folder))
        model = wrapped.merge_and_unload()
    return model.to(DTYPES[precision])


def load_base_model(checkpoint: Input, precision: str) -> PreTrainedModel:
    """The full model under the checkpoint's adapters; if those were trained on NF4 weights, rounded to NF4 in fp32 first."""
    if quantization_of(Path(checkpoint.adapters[0])) != nf4.KIND:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    return nf4.round_to_nf4(load_full(Path(checkpoint.base), torch.float32)).to(DTYPES[precision])


def load_full(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A Hugging Face folder as a model on the CPU, with all dropout set to 0.

    Raises PipelineError if tensors are missing, unexpected or of another shape.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in vars(config):
        if name.endswith(("dropout", "pdrop", "layerdrop")):
            setattr(config, name, 0.0)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    if wrong:
        raise PipelineError(f"{folder} does not contain the model that its config.json describes: {wrong}")
    loaded: PreTrainedModel = model
    return loaded


def load_adapter(model: PeftModel, folder: Path, name: str = "default") -> None:
    """Load a PEFT folder into the LoRA named `name` of `model`. Raises PipelineError unless all tensors match one to one."""
    result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"), adapter_name=name)
    missing = [key for key in result.missing_keys if "lora_" in key and f".{name}." in key]
    if missing or result.unexpected_keys:
        raise PipelineError(
            f"{folder} does not match the model it is loaded into: missing {missing[:3]}, "
            f"unexpected {list(result.unexpected_keys)[:3]}"
        )


def check_base(folder: Path, base_key: str, merged: Sequence[str]) -> None:
    """Raises UserError unless the adapter in `folder` was trained on this base with these adapters merged."""
    found = _base_file(folder)
    found.pop("quantization", None)
    expected = {"base_key": base_key, "merged": list(merged)}
    if found != expected:
        raise UserError(f"the adapter in {folder} was trained on another base: found {found}, expected {expected}")


def quantization_of(folder: Path) -> str:
    """How the base's weights were held when the adapter in `folder` was trained: `nf4` or `none`."""
    return str(_base_file(folder).get("quantization", "none"))


def _base_file(folder: Path) -> dict[str, Any]:
    file = folder / BASE_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {BASE_FILE}, which names the base of its adapter; adopt the adapter again")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _adapter_to_continue(init: Input, adapter: str) -> list[str]:
    """A list with the adapter to train further, or empty. Raises UserError if `adapter` and the parent do not go together."""
    if adapter == "continue":
        if not init.adapters:
            raise UserError("adapter=continue needs a parent with an adapter, found a full model; use adapter=new")
        return init.adapters[-1:]
    if adapter in ("none", "new") and init.adapters:
        raise UserError(
            f"adapter={adapter} needs a full model as parent, found one with an adapter; "
            "use adapter=continue or adapter=merge_then_new"
        )
    if adapter == "merge_then_new" and not init.adapters:
        raise UserError("adapter=merge_then_new needs a parent with an adapter, found a full model; use adapter=new")
    return []


def _new_adapter(model: PreTrainedModel, lora: Lora, dropout: float) -> PeftModel:
    """Wrap the model with a LoRA whose product is 0, so that training starts exactly from the parent."""
    linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = sorted(set(lora.targets) - linear)
    if unknown or not lora.targets:
        raise UserError(f"lora.targets={lora.targets}: this model has no {unknown}; expected some of {sorted(linear)}")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=dropout,
        target_modules=sorted(lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _continue_adapter(model: PreTrainedModel, init: Input, asking: Training, dropout: float) -> PeftModel:
    """Wrap the model with the parent's LoRA. Its shape is fixed, so settings that ask for another are an error."""
    folder, lora = Path(init.adapters[-1]), asking.lora
    check_base(folder, init.base_key, init.adapter_keys[:-1])
    config = peft_config(folder, dropout)
    # Compare everything that fixes the shape or the weights below it.
    found = {"rank": config.r, "alpha": float(config.lora_alpha), "targets": sorted(config.target_modules)}
    requested = {"rank": lora.rank, "alpha": float(lora.alpha), "targets": sorted(lora.targets)}
    found |= {"quantization": quantization_of(folder)}
    requested |= {"quantization": asking.quantization}
    if found != requested:
        raise UserError(
            f"adapter=continue trains the parent's LoRA {found}, but the settings request {requested}; make them equal"
        )
    # Saved adapters are marked for inference, which would freeze them.
    config.inference_mode = False
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    load_adapter(wrapped, folder)
    return wrapped


def peft_config(folder: Path, dropout: float) -> LoraConfig:
    """The config of the LoRA in a PEFT folder, with this dropout. Raises UserError if it is not a LoRA with listed targets."""
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or isinstance(config.target_modules, str):
        raise UserError(f"{folder} contains a {type(config).__name__}; expected a LoRA with a list of target modules")
    config.lora_dropout = dropout
    config.base_model_name_or_path = None
    return config
