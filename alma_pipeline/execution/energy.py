"""The energy that a node took, by the counters of its machine: never an estimate, and nothing where there is no counter.

GPUs: NVML's total energy counter, through the optional package nvidia-ml-py. CPU: Linux's powercap folders (RAPL), which most
systems let only root read. A counter belongs to the whole machine or GPU, whoever else uses it; so nothing is told of nodes that
may have run side by side, that were spread over several machines, or whose first part was trained by an earlier attempt.
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
SECONDS = 30.0
"""Between readings: a CPU's counter is full after minutes at the earliest, and then begins again."""
Counter = Callable[[], float]
"""Joules so far. Raises OSError or ValueError where it cannot be read (any more)."""


class Package:
    """The counter of one CPU package, made endless."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError or ValueError where it cannot be read."""
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
    """Counters read from now on until `stop`."""

    def __init__(self, counters: dict[str, list[Counter]]) -> None:
        """By what they count; none: nothing is known."""
        self._counters = counters
        self._failed = False
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._start = self._joules()
        if counters:
            threading.Thread(target=self._keep_up, daemon=True).start()

    def stop(self) -> dict[str, Any]:
        """For the node's result: `energy_joules`, and in `energy_of` of what; empty where a counter was lacking or was lost."""
        self._stopped.set()
        joules = self._joules() - self._start
        known = self._counters and not self._failed
        return {"energy_joules": joules, "energy_of": " and ".join(self._counters)} if known else {}

    def _keep_up(self) -> None:
        while not self._stopped.wait(SECONDS):
            self._joules()

    def _joules(self) -> float:
        with self._lock:
            try:
                return sum(counter() for counters in self._counters.values() for counter in counters)
            except (OSError, ValueError):
                self._failed = True
                return 0.0


def begin(job: Job) -> Meter:
    """Count from now on, as far as what is counted will be this job's alone."""
    hardware = job.hardware
    alone = job.rank == 0 and hardware.nodes == 1 and hardware.side_by_side == 1 and not job.resume.exists()
    return Meter(counters(hardware, POWERCAP) if alone else {})


def counters(hardware: Hardware, powercap: Path) -> dict[str, list[Counter]]:
    """What can be read here; none on a GPU machine without the GPUs' counters, for the CPU's alone would mislead."""
    cpu: list[Counter] = [*packages(powercap)]
    found = {"CPU packages": cpu} if cpu else {}
    if hardware.device != "cuda":
        return found
    gpu = gpus(hardware.devices)
    return {"GPUs": gpu} | found if gpu else {}


def packages(powercap: Path) -> list[Package]:
    """Of all CPU packages; none where one of them cannot be read. `psys` and parts of a package would count twice."""
    try:
        folders = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        return [Package(folder) for folder in folders if (folder / "name").read_text().startswith("package")]
    except (OSError, ValueError):
        return []


def gpus(count: int) -> list[Counter]:
    """Of the first `count` GPUs that this process may use; none where NVML, its package or the counter is lacking."""
    try:
        import pynvml as nvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return []
    with contextlib.suppress(nvml.NVMLError, OSError):
        nvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(count)]
        found = [_gpu(nvml, name.strip()) for name in names[:count]]
        for counter in found:
            counter()
        return found
    return []


def _gpu(nvml: Any, name: str) -> Counter:
    handle = nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)

    def joules() -> float:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    return joules
