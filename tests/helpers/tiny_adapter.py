"""LoRA adapters with weights that matter, made by PEFT itself: what routing, merging and adopting are tested on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from alma_pipeline.job import Input
from alma_pipeline.ml.models.load import BASE_FILE


def make_adapter(
    base: Input, folder: Path, seed: int, rank: int, targets: Sequence[str] = ("q_proj", "down_proj"), **settings: Any
) -> Input:
    """A LoRA on `base` that changes what it says, as a finished artifact. `settings`: further ones of PEFT's `LoraConfig`."""
    torch.manual_seed(seed)
    shape = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM", **settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                parameter.normal_(std=0.5)
            elif parameter.requires_grad and "lora_" not in name:  # biases and whole modules
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(base.path) / name).read_bytes())
    (folder / BASE_FILE).write_text(json.dumps({"base_key": base.key, "merged": []}))
    key = f"{seed}" * 64
    return replace(base, key=key, path=str(folder), adapters=[str(folder)], adapter_keys=[key])
