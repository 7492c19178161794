"""What two ranks load at the same time, and the memory that each takes for it: `torchrun -m helpers.merging FOLDER`.

FOLDER holds `base` and `adapter`, and so does its folder `small`; each rank leaves its outcome in FOLDER/rank-N.json.
"""

import hashlib
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from torch import nn

from alma_pipeline.job import Input
from alma_pipeline.ml import distributed
from alma_pipeline.ml.models import full_weights
from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.schema import Hardware

RANKS = 2
SHARD_BYTES = 4_000_000


def at(folder: Path) -> tuple[Input, Input]:
    """The base in FOLDER, and the adapter on it."""
    base = Input("b" * 64, "base", str(folder / "base"), {}, base=str(folder / "base"), base_key="b" * 64)
    adapter = str(folder / "adapter")
    return base, replace(base, path=adapter, adapters=[adapter], adapter_keys=["1" * 64])


def digest(model: nn.Module) -> str:
    """Of all weights, by name."""
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        found.update(name.encode() + parameter.detach().float().numpy().tobytes())
    return found.hexdigest()


class PeakMemory:
    """The most memory of its own, in bytes, that this process takes while the context is open; mapped files are not counted."""

    def __enter__(self) -> "PeakMemory":
        self.before = self.peak = anonymous_bytes()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.peak = max(self.peak, anonymous_bytes())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.peak = max(self.peak, anonymous_bytes())
        self._over.set()
        self._watcher.join()

    @property
    def grown(self) -> int:
        return self.peak - self.before


def anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not count anonymous memory")


def main(folder: Path) -> None:
    full_weights.SHARD_BYTES = SHARD_BYTES
    hardware = Hardware(name="test", devices=RANKS, launcher="torchrun", threads=1)
    world = distributed.init_process_group(hardware)
    # A small one beforehand: libraries allocate at their first use.
    load_for_inference(at(folder / "small")[1], hardware, "bf16", folder / "work")
    distributed.barrier()
    _, adapted = at(folder)
    with PeakMemory() as memory:
        model, _ = load_for_inference(adapted, hardware, "bf16", folder / "work")
    outcome = {"grown": memory.grown, "digest": digest(model)}
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
