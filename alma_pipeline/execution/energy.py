"""Measures a node's energy from hardware counters; never estimates it, and reports nothing without a counter.

GPUs: NVML's total energy counter, through the optional package nvidia-ml-py. CPU: Linux's powercap folders (RAPL), which most
systems let only root read. A counter covers the whole CPU package or GPU, whoever uses it. So nothing is reported for nodes that
may have run side by side, ran on several machines, or resumed an earlier attempt.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.schema import Hardware

POWERCAP = Path("/sys/class/powercap")
POLL_SECONDS = 30.0
"""Time between readings: a CPU counter overflows after a few minutes at the earliest."""
JouleCounter = Callable[[], float]
"""Returns the joules so far. Raises OSError or ValueError if it cannot be read (any more)."""


class CpuPackageCounter:
    """The counter of one CPU package, corrected for overflow."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError or ValueError if the counter cannot be read."""
        self._file = folder / "energy_uj"
        self._full = int((folder / "max_energy_range_uj").read_text())
        self._last = self._read()
        self._total = 0

    def _read(self) -> int:
        return int(self._file.read_text())

    def __call__(self) -> float:
        now = self._read()
        self._total += (now - self._last) % self._full
        self._last = now
        return self._total / 1e6


class Meter:
    """Reads counters from its creation until `stop`."""

    def __init__(self, counters: dict[str, list[JouleCounter]]) -> None:
        """`available_counters`: by what they measure; empty: `stop` reports nothing."""
        self._counters = counters
        self._failed = False
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._start = self._joules()
        if counters:
            threading.Thread(target=self._poll, daemon=True).start()

    def stop(self) -> dict[str, Any]:
        """Entries for the node's result: `energy_joules`, and `energy_of`; empty if a counter was missing or failed."""
        self._stopped.set()
        joules = self._joules() - self._start
        known = self._counters and not self._failed
        return {"energy_joules": joules, "energy_of": " and ".join(self._counters)} if known else {}

    def _poll(self) -> None:
        """Read often enough that no CPU counter overflows twice between readings."""
        while not self._stopped.wait(POLL_SECONDS):
            self._joules()

    def _joules(self) -> float:
        with self._lock:
            try:
                return sum(counter() for counters in self._counters.values() for counter in counters)
            except (OSError, ValueError):
                self._failed = True
                return 0.0


def start_meter(job: Job) -> Meter:
    """Start measuring if the counters will measure this job alone; else return a meter without counters."""
    hardware = job.hardware
    alone = job.rank == 0 and hardware.nodes == 1 and hardware.max_parallel_nodes == 1 and not job.resume.exists()
    return Meter(available_counters(hardware, POWERCAP) if alone else {})


def available_counters(hardware: Hardware, powercap: Path) -> dict[str, list[JouleCounter]]:
    """The readable counters of this machine. None on a GPU machine whose GPUs have none: the CPU alone would mislead."""
    cpu: list[JouleCounter] = [*cpu_counters(powercap)]
    found = {"CPU packages": cpu} if cpu else {}
    if hardware.device != "cuda":
        return found
    gpu = gpu_counters(hardware.devices)
    return {"GPUs": gpu} | found if gpu else {}


def cpu_counters(powercap: Path) -> list[CpuPackageCounter]:
    """Counters of all CPU packages, or none if any is unreadable. `psys` and parts of a package would be counted twice."""
    try:
        folders = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        return [CpuPackageCounter(folder) for folder in folders if (folder / "name").read_text().startswith("package")]
    except (OSError, ValueError):
        return []


def gpu_counters(count: int) -> list[JouleCounter]:
    """Counters of the first `count` visible GPUs, or none if NVML, its package or a counter is missing."""
    try:
        import pynvml as nvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return []
    with contextlib.suppress(nvml.NVMLError, OSError):
        nvml.nvmlInit()
        # NVML ignores CUDA_VISIBLE_DEVICES and numbers all GPUs of the machine.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(count)]
        found = [_gpu(nvml, name.strip()) for name in names[:count]]
        # One reading each: a GPU without a counter fails here, not while the node runs.
        for counter in found:
            counter()
        return found
    return []


def _gpu(nvml: Any, name: str) -> JouleCounter:
    handle = nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)

    def joules() -> float:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    return joules
