"""This process's place among the processes of a node: rank, size, device, and sums over ranks. Starts no process."""

import os
import warnings
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from alma_pipeline.errors import UserError
from alma_pipeline.schema import Hardware


@dataclass(frozen=True)
class World:
    """Where this process stands."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


def join(hardware: Hardware) -> World:
    """Join the process group of this node's processes, and set this one's device and CPU threads.

    torchrun, Slurm and the DeepSpeed launcher say in the environment who is who; without them the process is alone
    and meets itself in memory. Raises UserError where the processes are not those of `hardware`, or there is no such
    device.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if size != hardware.world:
        raise UserError(f"hardware.devices x hardware.nodes = {hardware.world}, but {size} processes were started")
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise UserError("hardware.device=cuda, but torch finds no GPU; use hardware=cpu, or install a CUDA build of torch")
    torch.set_num_threads(hardware.threads_each(hardware.devices))  # on its own machine, which need not be the launcher's
    device = torch.device("cuda", local) if hardware.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _start_group("nccl" if device.type == "cuda" else "gloo", size)
    return World(dist.get_rank(), dist.get_world_size(), device)


def _start_group(backend: str, size: int) -> None:
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed's engine reads it
    # DeepSpeed would compile a shared-memory operation on first use: half a minute, and a worker killed meanwhile
    # leaves a lock that stops the next. gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed's own calls into torch; a line for each at every step otherwise.
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    if size == 1:
        # Later groups meet in the same store for as long as the process lives: it must not be a file that goes away.
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def total(values: Tensor) -> Tensor:
    """The sum over ranks, on every rank; float64."""
    summed = values.to(torch.float64, copy=True)
    dist.all_reduce(summed)
    return summed


def from_first(value: Any) -> Any:
    """Rank 0's plain value, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Until every rank is here."""
    dist.barrier()


def everyone(value: Any) -> list[Any]:
    """Each rank's plain value, by rank, on every rank."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
