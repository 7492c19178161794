"""This process's rank, device and collectives within the process group of its node. Starts no processes.

Gradients and sums travel over the device's group, whose time limit finds a hanging rank. Ranks wait for one another and exchange
plain values over a second group on the CPU, which has no limit: one rank may write a large checkpoint while the others wait.
"""

import datetime
import functools
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

NO_LIMIT = datetime.timedelta(days=30)
"""How long ranks wait for one another: longer than any job. A rank that dies is found by its launcher."""
CONNECTING = datetime.timedelta(minutes=10)
"""How long ranks try to reach one another at the start: as long as NCCL does."""


@dataclass(frozen=True)
class World:
    """This process's place in the process group."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the process that writes files."""
        return self.rank == 0


def init_process_group(hardware: Hardware) -> World:
    """Initialise the process group, and set this process's device and CPU threads.

    torchrun, Slurm and the DeepSpeed launcher describe the group in the environment; without them the process forms a
    one-process group with an in-memory store. Raises UserError if the number of processes differs from `hardware`, or if
    there is no such device.
    """
    # Check the group against the settings before any rank waits for another.
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if size != hardware.world:
        raise UserError(f"hardware.devices x hardware.nodes = {hardware.world}, but {size} processes were started")
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise UserError("hardware.device=cuda, but torch finds no GPU; use hardware=cpu, or install a CUDA build of torch")
    torch.set_num_threads(hardware.threads_each(hardware.devices))  # counted on this machine: the launcher may run on another
    # NCCL needs the current device to be set before the group is initialised.
    device = torch.device("cuda", local) if hardware.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A process that runs several jobs keeps its first group.
    if not dist.is_initialized():
        _start_group("nccl" if device.type == "cuda" else "gloo", size)
    waiting_group()  # a collective call: here, where all ranks are at the same place
    return World(dist.get_rank(), dist.get_world_size(), device)


def device() -> torch.device:
    """The device on which this process computes: its GPU in a group of GPUs, otherwise the CPU."""
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _start_group(backend: str, size: int) -> None:
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed's engine reads it
    # DeepSpeed would compile a shared-memory operation on first use. That takes half a minute, and a worker killed
    # meanwhile leaves a lock that blocks the next one. gloo does not need the operation.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls deprecated functions at every step, each of which would print a line.
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    if size == 1:
        # Later groups use the same store as long as the process lives, so it must not be a file that may be deleted.
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


@functools.cache
def waiting_group() -> Any:
    """The CPU group without a time limit on which ranks wait and exchange plain values. The first call is a collective one.

    Raises UserError if the ranks do not reach one another.
    """
    try:
        group = dist.new_group(backend="gloo", timeout=CONNECTING)
        dist.barrier(group=group)
    except RuntimeError as error:
        raise UserError(
            f"the ranks do not reach one another over the network of the CPUs ({str(error).splitlines()[0]}); set "
            "GLOO_SOCKET_IFNAME to the interface that connects the machines, such as eth0"
        ) from error
    # The limit for meeting is not one for waiting.
    dist.distributed_c10d._set_pg_timeout(NO_LIMIT, group)
    return group


def all_gather(value: Any) -> list[Any]:
    """Each rank's `value` (any picklable object), in rank order, on every rank."""
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value, group=waiting_group())
    return gathered


def broadcast(value: Any) -> Any:
    """Rank 0's `value` (any picklable object), on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=waiting_group())
    return box[0]


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum of `values` over ranks, in float64, on every rank."""
    summed = values.to(torch.float64, copy=True)
    dist.all_reduce(summed)
    return summed


def barrier() -> None:
    """Block until every rank has called this, however long that takes."""
    dist.barrier(group=waiting_group())
