"""The memory estimate of `model=tiny` beside what its training takes, each ZeRO stage in a process of its own.

The time is measured by `benchmarks/estimates.py`: it depends on the machine.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PYTHONPATH, ROOT


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_memory_within_15_percent(stage: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "helpers.measured_training", str(stage), str(tmp_path)]
    environment = {"PYTHONPATH": PYTHONPATH, "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["memory_estimate"] == pytest.approx(found["memory"], rel=0.15)
