"""Processes, memory and launchers. Nothing here is part of an artifact's key."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II, MISSING

from alma_pipeline.schema.fields import choice, number
from alma_pipeline.schema.time_limit import limit_seconds

SRUN_WORD = re.compile(r"--([a-z][a-z-]*)(=.+)?")
"""An option of srun in full, with its value in the same word; the first group is its name."""
SRUN_SETTINGS = {
    "nodes": "hardware.nodes",
    "ntasks": "hardware.nodes",
    "ntasks-per-node": "hardware.nodes",
    "ntasks-per-gpu": "hardware.devices",
    "gpus-per-node": "hardware.devices",
    "time": "hardware.time_limit",
    "partition": "hardware.partition",
    "account": "hardware.account",
}
"""Options of srun that have a setting of their own."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how nodes run: this changes time and memory, never the result."""

    name: str = MISSING
    device: str = choice("cpu", "cuda")
    devices: int = number(1, at_least=1, at_most=1024)
    """Per node."""
    nodes: int = number(1, at_least=1, at_most=100_000)
    launcher: str = choice("local", "torchrun", "deepspeed", "slurm")
    threads: int | None = number(None, at_least=1, at_most=4096)
    """CPU threads per process; null: all cores, divided among the processes."""
    max_parallel_nodes: int = number(1, at_least=1, at_most=1024)
    """How many nodes of the plan run at the same time, if they do not depend on each other."""
    zero_stage: int = number(0, at_least=0, at_most=3)
    offload: str = choice("none", "cpu")
    """Where ZeRO keeps optimiser state and gradients; none: on the device."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass instead of keeping them: less memory, a third more time. null: where the plan's
    estimate does not fit without it."""
    micro_batch_tokens: int = number(4096, at_least=1)
    """Token budget of one micro-batch on one device."""
    decode_tokens: int | None = number(8192, at_least=1)
    """Tokens that the key-value cache of a decoding batch may hold, padded and free places included (a lone sentence may exceed
    it); null: what the device's free memory allows, with device=cuda."""
    flops: float = number(1e11, at_least=1e6, at_most=1e21)
    """Stated matmul rate of one device at the training precision, FLOP/s."""
    utilisation: float = number(0.4, at_least=1e-4, at_most=1)
    """Share of that rate which training is assumed to reach."""
    bandwidth: float = number(2e10, at_least=1e3, at_most=1e18)
    """Stated memory bandwidth of one device, bytes/s; it bounds decoding."""
    memory_gb: float = number(8, above=0, at_most=1e9)
    """Of one device, in 10^9 bytes."""
    checkpoint_seconds: float = number(600, above=0, at_most=1e9)
    """Least time between resume points; 20 times what the last one took to write, if that is longer."""
    comet_python: str | None = II("evaluation.comet.python")
    vllm_python: str | None = II("decoding.vllm.python")
    comet_batch: int = number(II("evaluation.comet.batch"), at_least=1, at_most=2**20)
    hostfile: str | None = None
    """For launcher=deepspeed."""
    partition: str | None = None
    account: str | None = None
    time_limit: str = "24:00:00"
    """Of the allocation that srun requests; inside an allocation its own limit holds."""
    srun: list[str] = field(default_factory=list, hash=False)
    """More options for srun, as --qos=long; one that is set already replaces it (`execution/srun.py`)."""

    @property
    def world(self) -> int:
        """Number of training processes."""
        return self.devices * self.nodes

    def threads_each(self, processes: int) -> int:
        """CPU threads of each of a node's `processes`; up to `max_parallel_nodes` nodes share this machine."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // (processes * self.max_parallel_nodes))

    def conflicts(self) -> Iterator[str]:
        try:
            limit_seconds(self.time_limit)
        except ValueError as error:
            yield f"time_limit: {error}"
        if self.decode_tokens is None and self.device != "cuda":
            yield f"decode_tokens=null takes what a GPU has free, found device={self.device}; set a number, such as 8192"
        if self.launcher == "local" and self.world > 1:
            yield f"launcher=local runs one process, found devices x nodes = {self.world}; use launcher=torchrun"
        if self.max_parallel_nodes > 1 and (self.launcher != "local" or self.device != "cpu"):
            found = f"found {self.launcher} and {self.device}"
            yield f"max_parallel_nodes={self.max_parallel_nodes} needs launcher=local and device=cpu, {found}"
        if self.nodes > 1 and self.launcher not in ("slurm", "deepspeed"):
            yield (
                f"nodes={self.nodes} needs launcher=slurm, or launcher=deepspeed with a hostfile; found {self.launcher}, "
                "which starts processes on this machine only"
            )
        if self.launcher == "deepspeed" and not self.hostfile:
            yield "launcher=deepspeed needs a hostfile; set hardware.hostfile=PATH"
        if self.srun and self.launcher != "slurm":
            yield f"srun={self.srun} needs launcher=slurm, found launcher={self.launcher}"
        yield from self._srun_problems()

    def _srun_problems(self) -> Iterator[str]:
        for word in self.srun:
            match = SRUN_WORD.fullmatch(word)
            if not match:
                yield f"srun={word}: expected an option in full with its value in the same word, as --qos=long"
            elif match[1] in SRUN_SETTINGS:
                yield f"srun={word}: use {SRUN_SETTINGS[match[1]]} for it"
