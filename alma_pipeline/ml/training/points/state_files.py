"""A state, tensors and numbers in nested containers, as a safetensors file that cannot hold code. Nothing is ever unpickled.

The tensors are the file's own; the containers around them are JSON in its header.
"""

import json
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alma_pipeline.errors import UserError
from alma_pipeline.ml import distributed
from alma_pipeline.ml.training.points import snapshot
from alma_pipeline.ml.training.points.snapshot import HostBuffer, Snapshot

SCALERS = {scaler.__name__: scaler for scaler in (LossScaler, DynamicLossScaler)}
"""The only objects in DeepSpeed's state: they hold the loss scale of fp16, and are stored as their numbers."""
UNUSED = "param_slice_mappings"
"""An entry of DeepSpeed's state, made of objects, that only its universal checkpoints read."""


class StateFiles(CheckpointEngine):  # type: ignore[misc]
    """Copies DeepSpeed's state to be written later, and reads it. The names of its files end in `.pt`, but none is a pickle."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[Path, Snapshot] = {}
        """What `save_checkpoint` saved last on this rank, by the path of its file; written by whoever called it."""
        self._buffers: dict[str, HostBuffer] = {}

    def create(self, info: Any) -> None:
        """Forget the last checkpoint."""
        self.taken = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Copy one file of DeepSpeed's state as it is now. The last copy of the same file must have been written."""
        buffer = self._buffers.setdefault(Path(path).name, HostBuffer())
        self.taken[Path(path)] = copy_state(state_dict, buffer)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file of DeepSpeed's state, to the CPU wherever it is asked for."""
        return load_state(Path(path))

    def commit(self, info: Any) -> bool:
        """Wait for the ranks that copy more than others: DeepSpeed's own barrier, which comes next, has a time limit."""
        distributed.barrier()
        return True


def copy_state(state: Any, buffer: HostBuffer) -> Snapshot:
    """A copy of a state as it is now, in the memory of `buffer`.

    Raises TypeError for an object that is neither number, text, tensor nor a container of them.
    """
    tensors: dict[str, Tensor] = {}
    # A tensor that occurs twice, as tied weights do, is stored once.
    names: dict[tuple[Any, ...], str] = {}
    structure = _encoded(state, tensors, names)
    return snapshot.take(tensors, {"state": json.dumps(structure)}, buffer)


def load_state(path: Path) -> Any:
    """Read the file of a `copy_state`, with all tensors on the CPU. Raises UserError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            structure = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return _decoded(structure, tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a file of a resume point ({type(error).__name__}: {error}); start the node again with --force NODE"
        ) from error


def _encoded(value: Any, tensors: dict[str, Tensor], names: dict[tuple[Any, ...], str]) -> Any:
    """`value` as JSON holds it: what JSON lacks is an object with one entry, named by its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return {"tensor": _stored(value.detach(), tensors, names)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key, tensors, names), _encoded(child, tensors, names)]
                         for key, child in value.items() if key != UNUSED]}  # fmt: skip
    if isinstance(value, (list, tuple, set)):
        children = [_encoded(child, tensors, names) for child in value]
        return children if isinstance(value, list) else {"set" if isinstance(value, set) else "tuple": children}
    if type(value).__name__ in SCALERS:
        return {type(value).__name__: _encoded(vars(value), tensors, names)}
    raise TypeError(f"a resume point cannot hold a {type(value).__name__}: {value!r}")


def _stored(tensor: Tensor, tensors: dict[str, Tensor], names: dict[tuple[Any, ...], str]) -> str:
    """The name of the tensor among `tensors`, where it is put."""
    place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else ("empty", len(names))
    if place not in names:
        names[place] = str(len(names))
        tensors[names[place]] = tensor
    return names[place]


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_encoded` was given. Raises KeyError, TypeError or ValueError for anything that it does not write."""
    if isinstance(value, list):
        return [_decoded(child, tensors) for child in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_decoded(key, tensors): _decoded(child, tensors) for key, child in content}
    if kind in ("tuple", "set"):
        return {"tuple": tuple, "set": set}[kind](_decoded(child, tensors) for child in content)
    if kind == "dtype":
        found = getattr(torch, content)
        if not isinstance(found, torch.dtype):
            raise TypeError(f"{content} is no dtype")
        return found
    scaler = SCALERS[kind].__new__(SCALERS[kind])
    vars(scaler).update(_decoded(content, tensors))
    return scaler
