"""Import a published full model or adapter as an artifact, with its tokenizer and configuration normalised.

Weights are linked or copied, never rewritten; the tokenizer gets a pad token, and sampling defaults are dropped. Opens
only safetensors and runs no code of a repository.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.adapter_base import check_trained_on
from alma_pipeline.ml.models.checkpoints import TOKENIZER_FILES
from alma_pipeline.ml.models.end_tokens import end_tokens, stated_end_tokens
from alma_pipeline.ml.models.hub import Snapshot
from alma_pipeline.ml.models.load import BASE_FILE, load_full, peft_config, refuse_tied
from alma_pipeline.ml.models.tokenizer import normalise_special_tokens

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def import_full(source: Snapshot, out: Path) -> dict[str, Any]:
    """Import the full model of `source` into the folder `out` and load it once to verify it. Raises UserError."""
    # Fail on an unusable repository before its weights are linked or copied.
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{source.folder} contains no usable model: {' '.join(str(error).split())[:300]}") from error
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{source.repo} contains quantised weights, which cannot be trained; use the repository that they were made from"
        )
    weights = _weights(source)
    _check_whole(weights)
    _check_weight_shapes(source, config, weights)
    # Training and decoding rely on BOS, EOS and a pad token, which must agree everywhere.
    tokenizer = normalise_special_tokens(tokenizer, config)
    _link_or_copy(weights, out, link=bool(source.commit))
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # Decoding stops at every end token that the model states; training uses the first, the tokenizer's.
    rows = int(config.get_text_config().vocab_size)
    special["eos_token_id"] = end_tokens(tokenizer.eos_token_id, stated_end_tokens(source.folder), rows)
    for name, value in special.items():
        setattr(config, name, value)
    config.save_pretrained(out)
    # A published model's sampling defaults would make all later decoding sample (X-ALMA's do).
    GenerationConfig(**special).save_pretrained(out)
    tokenizer.save_pretrained(out)
    # Loading proves that names and shapes fit the configuration.
    model = load_full(out, getattr(config, "dtype", None) or torch.float32)
    return {
        "checkpoint": {"form": "full"},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocab_size": model.config.get_text_config().vocab_size,
    } | origin(source)


def import_adapter(source: Snapshot, base: Input, merged: list[str], named_base: str, out: Path) -> dict[str, Any]:
    """Import the LoRA of `source` into the folder `out`, on top of `base` with the adapters `merged`. Raises UserError.

    `named_base`: the folder that the adapter names as its base, empty if it is not here. A full model in the same repository
    (X-ALMA's have one) is ignored.
    """
    if not (source.folder / "adapter_config.json").is_file() or not (source.folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"{source.repo} contains no adapter; expected adapter_config.json and {ADAPTER_WEIGHTS}. {_pickles(source)}"
        )
    shape = peft_config(source.folder, dropout=json.loads((source.folder / "adapter_config.json").read_text())["lora_dropout"])
    # Check the adapter against its base before anything is written.
    _check_whole([source.folder / ADAPTER_WEIGHTS])
    check_trained_on(source, base, len(merged), named_base, out.parent)
    _check_shapes(source, Path(base.base), shape)
    # An adapter names its base by key, in a file of its own, and carries the base's tokenizer.
    shape.base_model_name_or_path, shape.inference_mode = Path(base.base).name, True
    shape.save_pretrained(str(out))
    _link_or_copy([source.folder / ADAPTER_WEIGHTS], out, link=bool(source.commit))
    (out / BASE_FILE).write_text(json.dumps({"base_key": base.base_key, "merged": merged}, indent=1) + "\n", encoding="utf-8")
    _link_or_copy((Path(base.path) / name for name in TOKENIZER_FILES if (Path(base.path) / name).is_file()), out, link=False)
    return {"checkpoint": {"form": "adapter"}} | origin(source)


def origin(source: Snapshot) -> dict[str, str]:
    """The source, for the record: repository, commit, and the licence stated in its model card."""
    return {"repo": source.repo, "commit": source.commit, "licence": _licence(source.folder / "README.md")}


def _licence(card: Path) -> str:
    if not card.is_file():
        return ""
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        metadata = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except yaml.YAMLError:
        metadata = {}
    return str(metadata.get("license") or "") if isinstance(metadata, dict) else ""


def _weights(source: Snapshot) -> list[Path]:
    """The model's safetensors, and the index if there are several. Raises UserError if any is missing."""
    index = source.folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = source.folder / "model.safetensors"
        if not whole.is_file():
            raise UserError(f"{source.repo} contains neither model.safetensors nor an index of several. {_pickles(source)}")
        return [whole]
    # Check the index, which is the only list of the files a sharded model needs.
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is damaged ({error}); download it again") from error
    missing = [name for name in names if Path(name).name != name or not (source.folder / name).is_file()]
    if missing:
        raise UserError(f"{source.repo}: its index names {', '.join(missing[:3])}, missing in {source.folder}; download it again")
    return [index, *(source.folder / name for name in names)]


def _check_whole(files: Iterable[Path]) -> None:
    """Raises UserError for safetensors shorter than their header says; reads headers only."""
    for path in files:
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is damaged ({error}), perhaps by an interrupted download; download it again") from error


def _check_weight_shapes(source: Snapshot, config: PretrainedConfig, weights: Iterable[Path]) -> None:
    """Raises UserError if a tensor has another shape than config.json gives it; reads headers only."""
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config).state_dict()
    for path in weights:
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
        for name, shape in shapes.items():
            if name in expected and shape != (own := list(expected[name].shape)):
                vocabulary = int(config.get_text_config().vocab_size)
                rows = f"; vocab_size there is {vocabulary}, the weights have {shape[0]} rows" if own[0] == vocabulary else ""
                raise UserError(
                    f"{source.repo}: {name} has the shape {shape}, expected {own} by its config.json{rows}. One of the two "
                    "belongs to another model: download both again, or correct config.json"
                )


def _pickles(source: Snapshot) -> str:
    """What to do about a repository without safetensors, naming the pickle files found."""
    found = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in source.folder.glob(pattern))
    seen = f"Found {', '.join(found[:3])}: pickles may run code and are not opened. " if found else ""
    return (
        f"{seen}Convert the weights with save_pretrained in a trusted environment, or use a revision with safetensors "
        "(the hub's converter opens one as refs/pr/N), and adopt that"
    )


def _link_or_copy(files: Iterable[Path], out: Path, link: bool) -> None:
    """Put files into `out`. Files of the hub's cache never change in place, so they are hard-linked where possible."""
    for path in files:
        real, target = path.resolve(), out / path.name
        if link:
            try:
                os.link(real, target)
                continue
            except OSError:
                pass  # another file system, or one without hard links
        shutil.copyfile(real, target)


def _check_shapes(source: Snapshot, base: Path, shape: Any) -> None:
    """Compare the adapter's tensor names and shapes with those its config gives on the base, without loading weights."""
    # On the meta device the base has shapes but takes no memory.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
        wrapped = get_peft_model(model, shape, low_cpu_mem_usage=True)
    refuse_tied(wrapped, f"the adapter of {source.repo}")
    expected = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(wrapped).items()}
    with safe_open(source.folder / ADAPTER_WEIGHTS, framework="pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if wrong:
        raise UserError(
            f"the adapter of {source.repo} does not fit the model {base.name}: {len(wrong)} tensors differ; the first is "
            f"{wrong[0]}: found {found.get(wrong[0], 'none')}, expected {expected.get(wrong[0], 'none')}"
        )
