"""How fast scoring is beside the commands that people use: sacrebleu and comet-score on the same 10,000 segments.

    python benchmarks/scoring.py sacrebleu|comet        needs `make comet` for the latter; --segments, --runs, --layers, --width

Both sides do everything from start to numbers, on as many threads as they are given, in turn: ours, theirs, ours, theirs.
COMET is a random BERT: its speed is real, its scores are not. Each run's time and scores are printed, then the
medians and their ratio.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

OURS = {
    "sacrebleu": """
import json, sys
from alma_pipeline.ml.scoring.sacrebleu_metrics import measure
folder = sys.argv[1]
lines = [open(f"{folder}/{name}", encoding="utf-8").read().splitlines() for name in ("hypothesis", "reference")]
print(json.dumps([measure(name, "13a", *lines).score for name in ("bleu", "chrf++", "ter")]))
""",
    "comet": """
import json, sys
from pathlib import Path
from alma_pipeline.ml.scoring.comet import CometSegment, score
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.schema import Hardware, Neural
folder = Path(sys.argv[1])
lines = [(folder / name).read_text(encoding="utf-8").splitlines() for name in ("source", "hypothesis", "reference")]
segments = [CometSegment(*row) for row in zip(*lines)]
model = Neural(model=str(folder / "models/regression/checkpoints/model.ckpt"))
hardware = Hardware(name="benchmark", comet_python=None, comet_batch=16)
cache = SegmentCache(Path(sys.argv[1]) / f"{sys.argv[2]}.db")
print(json.dumps(sum(score(model, segments, hardware, cache, lambda done, total: None).scores) / len(segments)))
""",
}


def write_segments(folder: Path, count: int) -> None:
    """News-like lengths, 5 to 45 words of 2 to 11 letters; a fifth of a hypothesis's words are not the reference's."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvwyz", k=draw.randint(2, 11))) for _ in range(8000)]
    rows: dict[str, list[str]] = {"source": [], "reference": [], "hypothesis": []}
    for _ in range(count):
        reference = draw.choices(words, k=draw.randint(5, 45))
        rows["source"].append(" ".join(draw.choices(words, k=len(reference))))
        rows["reference"].append(" ".join(reference))
        rows["hypothesis"].append(" ".join(draw.choice(words) if draw.random() < 0.2 else word for word in reference))
    for name, lines in rows.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def theirs(what: str, folder: Path) -> list[str]:
    if what == "sacrebleu":
        words = ["-m", "bleu", "chrf", "ter", "--chrf-word-order", "2", "-w", "6"]
        return [sys.executable, "-m", "sacrebleu", str(folder / "reference"), "-i", str(folder / "hypothesis"), *words]
    files = ["-s", str(folder / "source"), "-t", str(folder / "hypothesis"), "-r", str(folder / "reference")]
    model = ["--model", str(folder / "models/regression/checkpoints/model.ckpt"), "--gpus", "0", "--batch_size", "16"]
    return [str(ROOT / ".venv-comet/bin/comet-score"), *files, *model, "--quiet", "--only_system"]


def timed(words: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    print(f"  {time.perf_counter() - started:6.1f} s  {' '.join(done.stdout.split())[-100:]}", flush=True)
    return time.perf_counter() - started


def make_model(folder: Path, layers: int, width: int) -> None:
    """A COMET checkpoint of a random BERT, as the tests make it."""
    script = [str(ROOT / ".venv-comet/bin/python"), "-I", str(ROOT / "tests/helpers/make_comet_models.py")]
    subprocess.run([*script, str(folder / "models"), str(layers), str(width), "512"], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sacrebleu", "comet"])
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6, help="of the COMET model's encoder")
    parser.add_argument("--width", type=int, default=128, help="of its hidden states")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_segments(folder, options.segments)
        if options.what == "comet":
            make_model(folder, options.layers, options.width)
        sides: list[Callable[[int], float]] = [
            lambda turn: timed([sys.executable, "-c", OURS[options.what], name, str(turn)]),
            lambda turn: timed(theirs(options.what, folder)),
        ]
        times = zip(*[[side(i) for side in sides] for i in range(options.runs)], strict=True)
        ours, peer = map(statistics.median, times)
    print(
        f"{options.segments} segments, medians of {options.runs}: ours {ours:.1f} s, theirs {peer:.1f} s, ratio {peer / ours:.2f}"
    )


if __name__ == "__main__":
    main()
