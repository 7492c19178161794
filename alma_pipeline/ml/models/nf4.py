"""A frozen base in 4-bit NormalFloat (QLoRA, arXiv 2305.14314), to train and decode adapters where its 16 bits do not fit.

Quantises every linear layer except the head, with double quantisation. An adapter trained on such a base is merged into
the dequantised 4-bit weights, never into the original ones (B15). Needs the optional package bitsandbytes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from alma_pipeline.errors import UserError

KIND = "nf4"


def load_nf4(folder: Path, dtype: torch.dtype, compute: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The full model in `folder` on `device`: matrices in 4 bits, rounded from `dtype`; all else is in `dtype`.

    Arithmetic is in `compute`. Matrices are moved and packed one at a time, so that the device never holds the 16-bit model
    (transformers 5.23, `core_model_loading`). Raises UserError if bitsandbytes is missing.
    """
    linear = _library().nn.Linear4bit
    # QLoRA's own settings: NF4 with double quantisation.
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=KIND, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": device}, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    # On some CPUs bitsandbytes (0.50) packs matrices at the first evaluation for a kernel without a gradient, so that training
    # could not continue; it takes only rows in multiples of 32 besides.
    for module in loaded.modules():
        if isinstance(module, linear):
            module.support_avx512bf16_for_cpu = False
    return loaded.requires_grad_(False)


@torch.no_grad()
def round_to_nf4(model: PreTrainedModel) -> PreTrainedModel:
    """Replace each matrix by its dequantised 4-bit value, in place and in the model's own precision; returns the model."""
    for name in matrices(model):
        module = model.get_submodule(name)
        module.weight = nn.Parameter(rounded(module.weight), requires_grad=False)
    return model


def matrices(model: PreTrainedModel) -> set[str]:
    """Names of the modules that are held in 4 bits: every linear layer except the head."""
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"}


def rounded(matrix: Tensor) -> Tensor:
    """The matrix as its 4 bits stand for it, in its own precision."""
    functional = _library().functional
    packed, state = functional.quantize_4bit(matrix, quant_type=KIND, compress_statistics=True)
    found: Tensor = functional.dequantize_4bit(packed, state)
    return found


def _library() -> Any:
    try:
        import bitsandbytes

        return bitsandbytes
    except ImportError as error:
        raise UserError(
            "quantization=nf4 needs the package bitsandbytes, which is not installed: pip install 'alma_pipeline[4bit]'; "
            "or set quantization=none"
        ) from error
