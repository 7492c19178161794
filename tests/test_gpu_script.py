"""The script for one GPU, as a dry run: every case runs to its end here, so that on a device only the device can fail."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--dry-run", "--scratch", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.comet
def test_every_case_runs_to_its_end_on_small_shapes(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    cases = re.findall(r"^(\S+) ", done.stdout, re.MULTILINE)
    expected = [
        "collectives",
        "kernels",
        "equal",
        "recipe",
        "resume",
        "full-1b",
        "lora-7b",
        "lora-7b-nf4",
        "recorded",
        "decoding",
        "comet",
    ]
    assert [case for case in cases if case in expected] == expected
    assert "FAILED" not in done.stdout
    assert "WRONG" not in done.stdout


def test_after_a_case_that_fails_the_next_one_runs_and_the_end_names_both(tmp_path: Path) -> None:
    done = run(tmp_path, "collectives", "kernels", "--seconds", "0.5")
    assert done.returncode == 1
    assert re.search(r"^collectives +FAILED .*the time was over$", done.stdout, re.MULTILINE)
    assert re.search(r"^kernels +FAILED .*no time is left for it$", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].endswith("wrong: collectives, kernels")
