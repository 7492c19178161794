"""Two DeepSpeed processes through the command, at ZeRO-3: the artifact of one, and nothing lost to kill -9."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.command import SMALL, artifact, kill_worker, newest, plan, run
from helpers.processes import wait_for

pytestmark = pytest.mark.slow

LORA = [*SMALL, "stage=parallel", "evaluation=paper", "evaluation.checkpoints=[]", "stages.parallel.adapter=new"]
LORA += ["stages.parallel.inputs.init=base", "budget.parallel.steps=16", "tracking=none"]
ZERO_3 = ["hardware=cpu2", "hardware.zero_stage=3"]
WEIGHTS = "adapter_model.safetensors"
Two = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """A store, and the record of a LoRA that two processes trained in it without a break."""
    store = tmp_path_factory.mktemp("two")
    done = run(store, *LORA, *ZERO_3)
    assert done.returncode == 0, done.stderr[-3000:]
    return store, newest(store, "parallel")


def test_two_processes_at_zero_3_make_the_artifact_of_one(two: Two) -> None:
    """Same key, and the same losses to 1e-4 relative; B6: the LoRA's tensors are whole."""
    store, together = two
    done = run(store, *LORA, "--force", "parallel")
    assert done.returncode == 0, done.stderr[-3000:]
    alone = newest(store, "parallel")
    assert (alone["key"], alone["hardware"]["devices"], together["hardware"]["devices"]) == (together["key"], 1, 2)
    assert alone["result"]["after"]["loss"] == pytest.approx(together["result"]["after"]["loss"], rel=1e-4)
    assert alone["files"][WEIGHTS] == together["files"][WEIGHTS] > 10_000


def test_two_processes_killed_at_zero_3_end_with_the_same_weights(two: Two, tmp_path: Path) -> None:
    """kill -9 of the first rank; torchrun ends the other, and both go on from the last resume point, bit for bit."""
    store, together = two
    for name in ("base", "parallel_corpus"):
        made = artifact(store, name)
        shutil.copytree(made, tmp_path / "artifacts" / made.name)
    words = [*LORA, *ZERO_3, "hardware.checkpoint_seconds=0.01"]
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "alma_pipeline", *words], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: resume_points(tmp_path) or process.poll() is not None, 120)
    kill_worker(tmp_path)
    assert process.wait(120) == 1
    assert plan(tmp_path, *words)["parallel"][0] == "resume"
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert newest(tmp_path, "parallel")["digests"][WEIGHTS] == together["digests"][WEIGHTS]


def resume_points(store: Path) -> list[Path]:
    """Whole ones: a point that is being written has a name of its own, and its manifest before that name is changed (B8)."""
    found = store.glob("work/parallel-*/resume/step-*/manifest.json")
    return [path.parent for path in found if path.parent.name.removeprefix("step-").isdigit()]
