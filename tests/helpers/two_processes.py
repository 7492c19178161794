"""What the tests run under torchrun, all cases in one start: `torchrun --nproc-per-node 2 -m helpers.two_processes FOLDER`.

FOLDER holds `base`, `pairs` and `documents`; each case leaves its outcome in FOLDER/<case>.
"""

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.training import step_log
from alma_pipeline.ml.training.points.point_writer import PointWriter
from helpers.tiny_model import LORA, make_job
from stages.group_adapter.run import run as run_group_adapter
from stages.parallel.run import run as run_parallel

PROCESSES = {"devices": int(os.environ.get("WORLD_SIZE", "1")), "launcher": "torchrun"}
RESUMED_AT = 3


def main(folder: Path) -> None:
    for zero_stage in range(4):
        trained(folder, f"parallel-{zero_stage}", run_parallel, "pairs", zero_stage, adapter="none")
    trained(folder, "adapter-3", run_group_adapter, "documents", 3)
    uninterrupted_and_resumed(folder)


def inputs(folder: Path, corpus: str) -> dict[str, Input]:
    base = str(folder / "base")
    return {
        "init": Input("b" * 64, "base", base, {}, base=base, base_key="b" * 64),
        "corpus": Input("c" * 64, "corpus", str(folder / corpus), {}),
    }


def fresh(folder: Path, case: str, kind: str, corpus: str, hardware: dict[str, Any], **settings: Any) -> Job:
    return make_job(folder / case, kind, inputs(folder, corpus), PROCESSES | hardware, **settings)


def trained(folder: Path, case: str, run: Any, corpus: str, zero_stage: int, **settings: Any) -> None:
    kind = run.__module__.split(".")[1]
    run(fresh(folder, case, kind, corpus, {"zero_stage": zero_stage}, **settings))


def uninterrupted_and_resumed(folder: Path) -> None:
    """A run under ZeRO-3, and the same run taken up from the first's resume point of an early step."""
    hardware = {"zero_stage": 3, "checkpoint_seconds": 1e-6}
    settings = {"adapter": "new", "steps": 6, "lora": dataclasses.replace(LORA, dropout=0.1)}
    first = fresh(folder, "uninterrupted", "parallel", "pairs", hardware, **settings)
    second = fresh(folder, "resumed", "parallel", "pairs", hardware, **settings)
    complete = PointWriter.complete

    def complete_and_set_aside(self: PointWriter) -> float:
        seconds = complete(self)
        if self.newest == RESUMED_AT and self.world.is_first:
            shutil.copytree(self.root, second.resume)
            for best in Path(first.work).glob("best-*"):
                shutil.copytree(best, Path(second.work) / best.name)
        return seconds

    with mock.patch.object(PointWriter, "complete", complete_and_set_aside), mock.patch.object(step_log, "SPARING", 0):
        run_parallel(first)
    run_parallel(second)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
