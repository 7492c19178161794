"""Models out of checkpoints: opened for training with the adapter a node asks for, or merged for decoding.

Writes nothing; `checkpoints` does. A checkpoint is a full model and the adapters that stand on it, in order.
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
"""Beside an adapter: the key of the full model it stands on, and of the adapters merged into that beforehand."""


@dataclass(frozen=True)
class Trainee:
    """A model as a training node takes it up, and what its checkpoint has to say about it."""

    model: PreTrainedModel | PeftModel
    """On the CPU in the node's precision, or on the device with 4-bit matrices; only what is trained requires a gradient."""
    form: str
    """`full` or `adapter`."""
    base: Path
    """Folder of the full model underneath."""
    base_key: str
    merged: tuple[str, ...]
    """Keys of the adapters merged into the base before training, in order."""
    base_weights: str
    """`nf4` where the base's matrices are held in 4 bits."""
    tokenizer: Path
    """Folder whose tokenizer files go with the checkpoint."""


def open_for_training(init: Input, config: Training, hardware: Hardware, dropout: float) -> Trainee:
    """The parent `init` with the adapter `config` asks for; `dropout` is LoRA's, every other dropout is 0.

    A fresh adapter is drawn from `config.seed`, alike on every rank.
    Raises UserError where the parent has not what `config.adapter` needs.
    """
    rng.seed(config.seed, rank=0)
    continued = _continued(init, config.adapter)
    merge = init.adapters[: len(init.adapters) - len(continued)]
    if config.base_weights == nf4.KIND:
        if merge:
            raise UserError(
                "base_weights=nf4 needs a full model under the adapter, found other adapters to be merged into it first"
            )
        model = nf4.load_nf4(Path(init.base), DTYPES[config.precision], hardware)
    else:
        model = load_merged(init, merge, config.precision)
    if config.adapter != "none":
        model = _fresh(model, config.lora, dropout) if not continued else _taken_up(model, init, config, dropout)
    if hardware.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return Trainee(
        model=model,
        form="full" if config.adapter == "none" else "adapter",
        base=Path(init.base),
        base_key=init.base_key,
        merged=tuple(init.adapter_keys[: len(merge)]),
        tokenizer=Path(init.path),
        base_weights=config.base_weights,
    )


def load_for_inference(checkpoint: Input, hardware: Hardware, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The checkpoint with all its adapters merged, in evaluation mode on this process's device, and its tokenizer."""
    model = load_merged(checkpoint, checkpoint.adapters, precision)
    device = "cpu" if hardware.device == "cpu" else torch.device("cuda", torch.cuda.current_device())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    return model.to(device).eval(), tokenizer


def release() -> None:
    """Hand the memory of models that are gone back to the device, for another process on it."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where CUDA was not used


def load_merged(checkpoint: Input, adapters: Sequence[str], precision: str) -> PreTrainedModel:
    """The full model of `checkpoint` with the first `adapters` of it merged in fp32, cast once to `precision`."""
    if not adapters:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    model = load_under(checkpoint, "fp32")
    for number, folder in enumerate(adapters):
        check_base(Path(folder), checkpoint.base_key, checkpoint.adapter_keys[:number])
        wrapped = get_peft_model(model, peft_config(Path(folder), dropout=0.0), autocast_adapter_dtype=False)
        load_adapter(wrapped, Path(folder))
        model = wrapped.merge_and_unload()
    return model.to(DTYPES[precision])


def load_under(checkpoint: Input, precision: str) -> PreTrainedModel:
    """The full model under the adapters of `checkpoint`, rounded in fp32 where they were trained on 4-bit weights."""
    if trained_on(Path(checkpoint.adapters[0])) != nf4.KIND:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    return nf4.rounded(load_full(Path(checkpoint.base), torch.float32)).to(DTYPES[precision])


def load_full(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A plain Hugging Face folder, on the CPU, without dropout. Raises PipelineError for tensors that do not fit it."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in vars(config):
        if name.endswith(("dropout", "pdrop", "layerdrop")):
            setattr(config, name, 0.0)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    if wrong:
        raise PipelineError(f"{folder} does not hold the model its config.json describes: {wrong}")
    loaded: PreTrainedModel = model
    return loaded


def load_adapter(model: PeftModel, folder: Path, name: str = "default") -> None:
    """Fill the LoRA called `name` of `model` from a PEFT folder; every tensor must be there and have a place."""
    result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"), adapter_name=name)
    missing = [key for key in result.missing_keys if "lora_" in key and f".{name}." in key]
    if missing or result.unexpected_keys:
        raise PipelineError(
            f"{folder} does not fit the model it is loaded on: missing {missing[:3]}, "
            f"unexpected {list(result.unexpected_keys)[:3]}"
        )


def check_base(folder: Path, base_key: str, merged: Sequence[str]) -> None:
    """Raises UserError unless the adapter in `folder` was trained on this base with these adapters merged."""
    found = _base_file(folder)
    found.pop("base_weights", None)
    expected = {"base_key": base_key, "merged": list(merged)}
    if found != expected:
        raise UserError(f"the adapter in {folder} was trained on another base: found {found}, expected {expected}")


def trained_on(folder: Path) -> str:
    """What the base's weights were held in when the adapter in `folder` was trained."""
    return str(_base_file(folder).get("base_weights", "as_is"))


def _base_file(folder: Path) -> dict[str, Any]:
    file = folder / BASE_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {BASE_FILE}, so nothing says which base its adapter belongs to; adopt it again")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _continued(init: Input, adapter: str) -> list[str]:
    """The adapter to be trained further, as a list of none or one."""
    if adapter == "continue":
        if not init.adapters:
            raise UserError("adapter=continue needs a parent with an adapter, found a full model; use adapter=new")
        return init.adapters[-1:]
    if adapter in ("none", "new") and init.adapters:
        raise UserError(
            f"adapter={adapter} needs a full model as parent, found an adapter on one; "
            "use adapter=continue or adapter=merge_then_new"
        )
    if adapter == "merge_then_new" and not init.adapters:
        raise UserError("adapter=merge_then_new needs a parent with an adapter, found a full model; use adapter=new")
    return []


def _fresh(model: PreTrainedModel, lora: Lora, dropout: float) -> PeftModel:
    """A LoRA whose product is 0, so that training starts from the parent exactly."""
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


def _taken_up(model: PreTrainedModel, init: Input, asking: Training, dropout: float) -> PeftModel:
    """The parent's own LoRA; its shape is given, so a setting that says otherwise is a mistake."""
    folder, lora = Path(init.adapters[-1]), asking.lora
    check_base(folder, init.base_key, init.adapter_keys[:-1])
    config = peft_config(folder, dropout)
    found = {"rank": config.r, "alpha": float(config.lora_alpha), "targets": sorted(config.target_modules)}
    asked = {"rank": lora.rank, "alpha": float(lora.alpha), "targets": sorted(lora.targets)}
    found |= {"base_weights": trained_on(folder)}
    asked |= {"base_weights": asking.base_weights}
    if found != asked:
        raise UserError(f"adapter=continue goes on with the parent's LoRA {found}, but lora asks for {asked}; make them equal")
    config.inference_mode = False
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    load_adapter(wrapped, folder)
    return wrapped


def peft_config(folder: Path, dropout: float) -> LoraConfig:
    """The shape of the LoRA in a PEFT folder, with this dropout. Raises UserError for anything but a LoRA."""
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or isinstance(config.target_modules, str):
        raise UserError(f"{folder} holds a {type(config).__name__}; expected a LoRA with a list of target modules")
    config.lora_dropout = dropout
    config.base_model_name_or_path = None
    return config
