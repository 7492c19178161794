"""The estimates of `model=tiny` beside what its training takes: `python benchmarks/estimates.py`.

Each ZeRO stage trains in a process of its own (`tests/helpers/measured_training.py`), with the rate of matrix products measured
there as the machine's; the table has medians. Exit status 1 when memory is more than 15 % or time more than a factor of 2 from
the estimate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def measure(stage: int) -> dict[str, float]:
    """One training: bytes and CPU seconds, estimated and taken."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "helpers.measured_training", str(stage), folder]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs, within = parser.parse_args().runs, True
    print(f"{'ZeRO':4} {'memory MB':>10} {'estimate':>9} {'ratio':>6} {'CPU s':>7} {'estimate':>9} {'ratio':>6}")
    for stage in range(4):
        measured = [measure(stage) for _ in range(runs)]
        found = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
        memory, time = found["memory_estimate"] / found["memory"], found["seconds_estimate"] / found["seconds"]
        print(
            f"{stage:4} {found['memory'] / 1e6:10.0f} {found['memory_estimate'] / 1e6:9.0f} {memory:6.2f} "
            f"{found['seconds']:7.2f} {found['seconds_estimate']:9.2f} {time:6.2f}",
            flush=True,
        )
        within = within and abs(memory - 1) <= 0.15 and 0.5 <= time <= 2
    sys.exit(not within)


if __name__ == "__main__":
    main()
