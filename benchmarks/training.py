"""Training throughput, side by side: `python benchmarks/training.py sft --text FILE --model FOLDER`.

Each side is a process of its own (`sides.py`) that holds the same model and works on the same pairs; they take turns,
one optimiser step each, so that a change of the machine's speed hits all alike. Every step's figures go to standard error as
they come, the table of medians to standard output: at the end, or of what there is when the run is interrupted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TABLES = {
    "sft": ["ours-sft", "plain-packed", "trl-sft-packing", "trl-sft-padding", "alma-sft"],
    "cpo": ["ours-cpo", "ours-arpo", "trl-cpo"],
}
STATES = 16
"""Bytes a parameter: fp32 weight, gradient and AdamW's two moments."""


class Side:
    """A running side."""

    def __init__(self, name: str, settings: dict[str, Any], python: str) -> None:
        command = [python, str(Path(__file__).with_name("sides.py")), name, json.dumps(settings)]
        self.name = name
        self.results: list[dict[str, float]] = []
        self.log = Path(settings["work"]) / f"{name}.log"
        with open(self.log, "w") as log:
            # In a session of its own: Ctrl-C is for the parent, and the end of its standard input ends a side.
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, start_new_session=True)
        self.without_activations = 0.0

    def wait(self) -> None:
        """Until it has loaded its model and data."""
        ready = self._answer()
        self.without_activations = ready["ready"] + (STATES - 4) * ready["parameters"]

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(self._end())
        answer: dict[str, float] = json.loads(line)
        return answer

    def ask(self, what: str) -> dict[str, float]:
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise SystemExit(self._end()) from error
        return self._answer()

    def _end(self) -> str:
        code = self.process.wait()
        why = "killed, perhaps for memory: the sides hold theirs at once; --sides takes fewer" if code == -9 else f"exit {code}"
        return f"{self.name} ended ({why}): {self.log.read_text()[-3000:]}"

    def step(self) -> dict[str, float]:
        self.results.append(self.ask("step"))
        return self.results[-1]

    def median(self, name: str, skip: int) -> float:
        return statistics.median(result[name] for result in self.results[skip:])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def line(side: Side, pairs: int) -> str:
    """The figures of a side's latest step."""
    result = side.results[-1]
    memory = f"peak {result['peak'] / 1e9:.2f} GB, activations {(result['peak'] - side.without_activations) / 1e9:.2f} GB"
    speed = f"{result['seconds']:.2f} s, {pairs / result['seconds']:.3f} pairs/s"
    return f"{side.name}: {speed}, {memory}, loss {result['loss']:.5f}"


def rounds(sides: list[Side], options: argparse.Namespace) -> None:
    """One step of every side in turn, as often as asked for, each told at once."""
    for number in range(options.warm_up + options.runs):
        name = f"run {number - options.warm_up + 1}/{options.runs}" if number >= options.warm_up else "warm-up"
        for side in sides:
            side.step()
            print(f"{name}, {line(side, options.pairs)}", file=sys.stderr, flush=True)


def table(sides: list[Side], pairs: int, skip: int, rate: float) -> str:
    """One line a side: medians after the first `skip` steps, the ratio of the median time to the first side's, the range of
    times, and the losses of the first step and of the last."""
    first = sides[0].median("seconds", skip)
    head = f"{'side':18} {'pairs/s':>8} {'ratio':>6} {'range of a step':>17} {'peak GB':>8} {'activations GB':>15}"
    lines = [f"{head} {'first loss':>11} {'last loss':>10}"]
    for side in sides:
        seconds, peak = side.median("seconds", skip), side.median("peak", skip)
        timed = [result["seconds"] for result in side.results[skip:]]
        spread = f"{min(timed):.2f} to {max(timed):.2f} s"
        lines.append(
            f"{side.name:18} {pairs / seconds:8.3f} {seconds / first:6.2f} {spread:>17} {peak / 1e9:8.2f} "
            f"{(peak - side.without_activations) / 1e9:15.2f} {side.results[0]['loss']:11.5f} {side.results[-1]['loss']:10.5f}"
        )
    work = sides[0].median("flops", skip)
    share = f"{sides[0].name}: {work / first / 1e9:.0f} of {rate / 1e9:.0f} GFLOP/s of fp32 GEMM in the model's shapes"
    steps = f"medians of {len(sides[0].results) - skip} steps of {pairs} pairs"
    return "\n".join([*lines, f"{share}, {work / first / rate:.0%}", steps])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--text", required=True, help="train.de-en.json of ALMA-Human-Parallel")
    parser.add_argument("--model", required=True, help="a Hugging Face folder, see make_model.py")
    parser.add_argument("--pairs", type=int, default=16, help="per optimiser step")
    parser.add_argument("--micro-batch", type=int, default=4, help="rows (pairs for cpo) a micro-batch of the padding sides")
    parser.add_argument("--row-tokens", type=int, default=1024, help="our token budget of a micro-batch")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="runs before those that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="*", help="some of the table's sides")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has trl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        settings = vars(options) | {"runs": options.runs + options.warm_up, "work": work}
        sides = [Side(name, settings, options.python) for name in options.sides or TABLES[options.table]]
        for side in sides:
            side.wait()
        rate = sides[0].ask("gemm")["gemm"]
        try:
            rounds(sides, options)
        finally:
            done = [side for side in sides if len(side.results) > options.warm_up]
            if sides[0] in done:
                print(table(done, options.pairs, options.warm_up, rate), flush=True)
        for side in sides:
            side.close()


if __name__ == "__main__":
    main()
