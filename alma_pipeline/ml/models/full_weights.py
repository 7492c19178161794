"""A checkpoint's full weights on disk: its base's own files, or new ones with adapters merged in, matrix by matrix.

One process merges for all processes of a node, and never holds the whole model; the others read its files.
"""

import json
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from peft.tuners.lora import Embedding, Linear, LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Input
from alma_pipeline.ml import distributed
from alma_pipeline.ml.models import nf4
from alma_pipeline.ml.models.load import ADAPTER_FILE, DTYPES, refuse_unmatched, rounded_from
from alma_pipeline.ml.models.merge import load_merged, merge_matrix, with_new_adapter

SHARD_BYTES = 10**9
"""Size at which a file of merged weights is written; with one matrix in fp32, the most that merging holds (our choice)."""
PLAIN_LORA = re.compile(r"\.lora_([AB]|embedding_[AB])(\.weight)?$")
"""Tensors of an adapter that change one matrix each. All else, such as biases and whole modules, is merged in a whole model."""
CONFIGS = ("config.json", "generation_config.json")


@contextmanager
def full_weights(checkpoint: Input, adapters: Sequence[str], precision: str, work: Path | None = None) -> Iterator[Path]:
    """A folder with the full model of `checkpoint`, its first `adapters` merged in fp32 and cast once to `precision`.

    It is the base's own if none are to be merged, unless the checkpoint's adapters were trained on 4-bit weights: the model then
    has the values of these. Merged weights are written into `work`, a folder that all ranks see, by default a temporary one; they
    are deleted at the exit, when every rank has loaded them, unless ranks are on several machines. A collective call. Draws
    random numbers as for new adapters of these shapes, equally on every rank. Raises UserError for an adapter of another base,
    PipelineError if a merged matrix differs from the unmerged one.
    """
    base = Path(checkpoint.base)
    if not adapters and not rounded_from(checkpoint):
        yield base
        return
    # Every rank checks the adapters: a wrong one ends them all with the same message.
    shapes = [with_new_adapter(skeleton(base), checkpoint, number) for number in range(len(adapters))]
    with tempfile.TemporaryDirectory() if work is None else _emptied(work / "merged") as name:
        folder = Path(name)
        if _is_first():
            with torch.random.fork_rng(devices=[]):
                write_merged(checkpoint, shapes, precision, folder)
        _barrier()
        yield folder
        _barrier()


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, deleted by the first rank at the exit; if there are several machines, with the work folder.

    A machine may still read what it has mapped, and a network disk takes a deleted file from all machines but one.
    """
    is_deleted = not dist.is_initialized() or len(set(distributed.all_gather(socket.gethostname()))) == 1
    if _is_first():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)  # NFS keeps a folder while deleted files of it are in use
    try:
        yield folder
    finally:
        if _is_first() and is_deleted:
            shutil.rmtree(folder, ignore_errors=True)


def skeleton(base: Path) -> PreTrainedModel:
    """The full model in `base` without its weights: fp32 on the meta device."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(base, local_files_only=True), dtype=torch.float32
        )
    return model


def write_merged(checkpoint: Input, shapes: Sequence[PeftModel], precision: str, folder: Path) -> None:
    """Write the model with the adapters of these `shapes` merged into `folder`, as files of about `SHARD_BYTES`."""
    base = Path(checkpoint.base)
    # Names that change when a model is loaded, and adapters of more than matrices, need the whole model.
    if not _by_matrix(checkpoint, shapes):
        load_merged(checkpoint, checkpoint.adapters[: len(shapes)], precision).save_pretrained(folder)
        return
    for name in CONFIGS:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    shard, written, places = dict[str, Tensor](), 0, dict[str, str]()
    for name, tensor in merged_tensors(checkpoint, shapes, precision):
        shard[name] = tensor
        if sum(each.nbytes for each in shard.values()) >= SHARD_BYTES:
            written += 1
            places |= _write_shard(folder, written, shard)
    if shard:
        places |= _write_shard(folder, written + 1, shard)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_shard(folder: Path, number: int, shard: dict[str, Tensor]) -> dict[str, str]:
    """Write one file, and empty `shard`. Returns the file's name for each tensor."""
    file = f"model-{number:05}.safetensors"
    save_file(shard, folder / file, {"format": "pt"})
    places = dict.fromkeys(shard, file)
    shard.clear()
    return places


def merged_tensors(checkpoint: Input, shapes: Sequence[PeftModel], precision: str) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each weight of the model with the adapters of these `shapes` merged, one at a time.

    Raises PipelineError if a matrix differs from base and adapter, or if an adapter's matrix is not in the base.
    """
    layers = [_lora_layers(wrapped, Path(folder)) for wrapped, folder in zip(shapes, checkpoint.adapters, strict=False)]
    # An adapter on 4-bit weights is merged into these, rounded from what they were rounded from in training.
    rounding = rounded_from(checkpoint)
    packed = nf4.matrices(skeleton(Path(checkpoint.base))) if rounding else set()
    for name, file in tensor_files(Path(checkpoint.base)).items():
        module, _, kind = name.rpartition(".")
        tensor = read_tensor(file, name)
        if rounding:
            tensor = tensor.to(DTYPES[rounding])
            tensor = nf4.rounded(tensor) if kind == "weight" and module in packed else tensor
        for found in layers:
            if kind == "weight" and module in found:
                tensor = merge_matrix(found.pop(module), tensor.float(), name)
        yield name, tensor.to(DTYPES[precision])
    if left := [name for found in layers for name in found]:
        raise PipelineError(f"{checkpoint.base} has no weights for {len(left)} matrices of an adapter, e.g. {left[:3]}")


def _lora_layers(wrapped: PeftModel, folder: Path) -> dict[str, LoraLayer]:
    """The LoRA layers by module name, with the adapter's weights, which are mapped into memory."""
    # PEFT's own loading would move the weights to the meta device, where the matrices under them are.
    state = {PLAIN_LORA.sub(r".lora_\1.default\2", name): tensor for name, tensor in load_file(folder / ADAPTER_FILE).items()}
    found = wrapped.load_state_dict(state, strict=False, assign=True)
    refuse_unmatched(folder, sorted(name for name in found.missing_keys if ".lora_" in name), found.unexpected_keys)
    return _layers(wrapped)


def _layers(wrapped: PeftModel) -> dict[str, LoraLayer]:
    return {name: module for name, module in wrapped.get_base_model().named_modules() if isinstance(module, LoraLayer)}


def _by_matrix(checkpoint: Input, shapes: Sequence[PeftModel]) -> bool:
    """Whether the base's files name its weights as the model does, and every adapter changes matrices alone."""
    model, stored = skeleton(Path(checkpoint.base)), set(tensor_files(Path(checkpoint.base)))
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    own = {name for name, _ in model.named_parameters()} | (set(model.state_dict()) - every)
    if stored != own:
        return False
    for wrapped, folder in zip(shapes, checkpoint.adapters, strict=False):
        with safe_open(Path(folder) / ADAPTER_FILE, framework="pt") as file:
            plain = all(PLAIN_LORA.search(name) for name in file.keys())  # noqa: SIM118 - no mapping
        known = all(isinstance(layer, Linear | Embedding) and f"{name}.weight" in own for name, layer in _layers(wrapped).items())
        if not plain or not known:
            return False
    return True


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name to the safetensors file that holds it."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, mapped into memory."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _barrier() -> None:
    if dist.is_initialized():
        distributed.barrier()
