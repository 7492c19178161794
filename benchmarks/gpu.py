"""What one GPU does with the work of users, in at most 10 minutes: `python benchmarks/gpu.py [CASE ...]`.

Prints one table: each figure beside the plan's estimate, an aim, or the same work on the CPU. Each case runs in a process of
its own; after one that fails the next follows, and the exit status is 1. A case for which no time is left fails: name it alone.
`--dry-run` goes through all cases on a CPU with small shapes, to try the script. The device needs 80 GB, the disk 30 GB.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from gpu_beds import Bed
from gpu_commands import full_device, recipe, resume
from gpu_correct import collectives, equal, kernels
from gpu_decoding import budgets, comet, four_bits, recorded
from gpu_figures import HEADER, Figure, Outcome, lines, plain
from gpu_training import points, train

CASES: dict[str, Callable[[Bed], list[Figure]]] = {
    "collectives": collectives,
    "kernels": kernels,
    "equal": equal,
    "recipe": recipe,
    "resume": resume,
    "full-1b": partial(train, shape="1b"),
    "full-1b-checkpointing": partial(train, shape="1b", gradient_checkpointing=True),
    "full-1b-points": points,
    "full-1b-offload": partial(train, shape="1b", offload="cpu"),
    "lora-7b": partial(train, shape="7b", rank=16),
    "lora-7b-checkpointing": partial(train, shape="7b", rank=16, gradient_checkpointing=True),
    "lora-7b-nf4": partial(train, shape="7b", rank=16, quantization="nf4", gradient_checkpointing=True),
    "full-device": full_device,
    "four-bits": four_bits,
    "recorded": recorded,
    "decoding": budgets,
    "comet": comet,
}
ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""As workers have it (`execution/processes.py`)."""
SECONDS, DRY_SECONDS = 590.0, 3600.0
"""Limits of the whole script, on a device and in a dry run."""


def main() -> None:
    options = arguments()
    if options.folder:
        print(json.dumps(plain(carried_out(options.cases[0], Bed(options.folder, options.dry_run)))), flush=True)
        os._exit(0)  # as a worker ends: libraries with threads can abort in Python's shutdown
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --dry-run tries the script on the CPU")
    device = "a dry run on the CPU: no figure means anything" if options.dry_run else torch.cuda.get_device_name()
    print(f"{device}; torch {torch.__version__}\n{HEADER}", flush=True)
    limit = options.seconds or (DRY_SECONDS if options.dry_run else SECONDS)
    start, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for case in options.cases:
            left = limit - (time.monotonic() - start)
            outcome = in_its_own_process(case, Path(folder), left, options.dry_run)
            print("\n".join(lines(outcome)), flush=True)
            outcomes.append(outcome)
    wrong = [outcome.case for outcome in outcomes if not outcome.is_right]
    print(
        f"{len(outcomes)} cases in {time.monotonic() - start:.0f} s; " + (f"wrong: {', '.join(wrong)}" if wrong else "all right")
    )
    sys.exit(bool(wrong))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--dry-run", action="store_true", help="all cases on a CPU with small shapes")
    parser.add_argument(
        "--seconds", type=float, help=f"limit of the whole, {SECONDS:.0f} on a device; cases beyond it do not run"
    )
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a single case, in this process
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    return options


def in_its_own_process(case: str, folder: Path, seconds: float, dry: bool) -> Outcome:
    """What came of the case; a process that fails leaves the device free for the next."""
    if seconds <= 0:
        return Outcome(case=case, seconds=0, figures=[], failure="no time is left for it")
    words = [sys.executable, __file__, case, "--folder", str(folder), *(["--dry-run"] if dry else [])]
    start = time.monotonic()
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=seconds, env=ALLOCATOR | os.environ)
    except subprocess.TimeoutExpired:
        return Outcome(case=case, seconds=time.monotonic() - start, figures=[], failure="the time was over")
    taken = time.monotonic() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(done.stderr[-3000:], file=sys.stderr)
        return Outcome(case=case, seconds=taken, figures=[], failure=f"exit {done.returncode}: {last}")
    return Outcome(case=case, seconds=taken, figures=[Figure(**one) for one in json.loads(done.stdout.splitlines()[-1])])


def carried_out(case: str, bed: Bed) -> list[Figure]:
    """The figures of one case; what libraries print goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        return CASES[case](bed)


if __name__ == "__main__":
    main()
