"""Open a checkpoint for training, with the adapter a node requests, or merged for inference. Writes nothing."""

from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml import rng
from alma_pipeline.ml.models import nf4
from alma_pipeline.ml.models.full_weights import full_weights
from alma_pipeline.ml.models.load import (
    CPU,
    DTYPES,
    check_base,
    device_of,
    load_adapter,
    load_full,
    peft_config,
    quantization_of,
    refuse_tied,
)
from alma_pipeline.ml.models.routing import load_unmerged
from alma_pipeline.schema import Hardware, Lora, Training
from alma_pipeline.schema.training import lora_mismatch


@dataclass(frozen=True)
class TrainableModel:
    """A model ready for training, and the provenance that its checkpoint records."""

    model: PreTrainedModel | PeftModel
    """In the node's precision or with 4-bit matrices, on the device, under ZeRO-3 on the CPU; only trained parameters require
    gradients."""
    form: str
    """What is trained and saved: `full` or `adapter`."""
    base: Path
    """Folder of the full model."""
    base_key: str
    merged: tuple[str, ...]
    """Keys of the adapters merged into the base before training, in order."""
    quantization: str
    """`nf4` if the base's matrices are held in 4 bits, else `none`."""
    precision: str
    """What the weights are computed in, and what 4-bit matrices were rounded from."""
    tokenizer: Path
    """Folder with the tokenizer files to copy into the checkpoint."""


def open_for_training(
    init: Input, config: Training, hardware: Hardware, dropout: float, work: Path | None = None
) -> TrainableModel:
    """Load the parent `init` with the adapter that `config` requests; `dropout` is LoRA's, all other dropout is 0.

    A new adapter is initialised from `config.seed`, equally on every rank. `work`: see `full_weights`. A collective call.
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
        if hardware.zero_stage == 3:
            raise UserError("quantization=nf4 cannot be trained with hardware.zero_stage=3, which slices weights; use 0, 1 or 2")
        dtype = DTYPES[config.precision]
        model = nf4.load_nf4(Path(init.base), dtype, dtype, device_of(hardware))
    else:
        # Under ZeRO-3 a device holds a slice of the model, which is made from the CPU's.
        device = CPU if hardware.zero_stage == 3 else device_of(hardware)
        with full_weights(init, merge, config.precision, work) as folder:
            model = load_full(folder, DTYPES[config.precision], device)
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
        precision=config.precision,
    )


def load_for_inference(
    checkpoint: Input, hardware: Hardware, precision: str, work: Path | None = None, quantization: str = "none"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The checkpoint in evaluation mode on this process's device, and its tokenizer.

    All adapters are merged; with `quantization` nf4 they are beside a base in 4 bits. `work`: see `full_weights`. A collective
    call.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    if quantization == nf4.KIND:
        return load_unmerged(checkpoint, hardware, precision), tokenizer
    with full_weights(checkpoint, checkpoint.adapters, precision, work) as folder:
        model = load_full(folder, DTYPES[precision], device_of(hardware))
    return model.eval(), tokenizer


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
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    refuse_tied(wrapped, f"lora.targets={lora.targets}")
    return wrapped


def _continue_adapter(model: PreTrainedModel, init: Input, asking: Training, dropout: float) -> PeftModel:
    """Wrap the model with the parent's LoRA. Its shape is fixed, so settings that ask for another are an error."""
    folder = Path(init.adapters[-1])
    check_base(folder, init.base_key, init.adapter_keys[:-1])
    config = peft_config(folder, dropout)
    if different := lora_mismatch(config.to_dict(), quantization_of(folder), asking):
        raise UserError(f"adapter=continue trains the parent's LoRA further, but {different}")
    # Saved adapters are marked for inference, which would freeze them.
    config.inference_mode = False
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    refuse_tied(wrapped, str(folder))
    load_adapter(wrapped, folder)
    return wrapped
