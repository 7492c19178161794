"""Tiny repositories with the file layout of the published ones, in a folder that stands for the hub."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint

CARD = "---\nlicense: mit\n---\n# a card\n"


def make_full(mirror: Path, repo: str, seed: int = 0, shards: bool = True) -> Path:
    """As ALMA-13B-Pretrain: 16 bit, in shards with an index, no pad token, sampling settings, pickles beside."""
    folder = mirror / repo
    made = make_checkpoint(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    (folder / "model.safetensors").unlink()
    model.generation_config.update(do_sample=True, temperature=0.9, top_p=0.6)
    model.to(torch.float16).save_pretrained(folder, max_shard_size="30KB" if shards else "5GB")
    assert (len(list(folder.glob("model-*.safetensors"))) > 1) == shards
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    tokenizer.add_special_tokens({"unk_token": "<pad>"})  # the one spare token of this tokenizer
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    (folder / "README.md").write_text(CARD)
    return folder


def make_lora(mirror: Path, repo: str, base: str, seed: int = 1) -> Path:
    """As ALMA-13B-Pretrain-LoRA: an adapter that names its base."""
    on = make_checkpoint(mirror.parent / f"base-of-{seed}")
    folder = mirror / repo
    make_adapter(on, folder, seed, rank=2)
    (folder / "base.json").unlink()  # nobody else writes one
    rename_base(folder, base)
    (folder / "README.md").write_text(CARD)
    return folder


def rename_base(folder: Path, base: str) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def make_stray(folder: Path) -> None:
    """ALMA-13B-R is merged, and has the settings of the adapter that was: with peft installed these mislead its loading."""
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "haoranxu/ALMA-13B-Pretrain"})
    )
