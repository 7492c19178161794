"""How fast scoring is beside the commands that people use: sacrebleu and comet-score on the same 10,000 segments.

    python benchmarks/scoring.py sacrebleu|comet [SEGMENTS]        needs `make comet` for the latter

Both sides do everything from start to numbers, on as many threads as they are given, in turn: ours, theirs, ours, theirs.
COMET is a random BERT of 6 layers, 128 wide: its speed is real, its scores are not.
"""

import json
import os
import random
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
from alma_pipeline.ml import surface
folder = sys.argv[1]
lines = [open(f"{folder}/{name}", encoding="utf-8").read().splitlines() for name in ("hypothesis", "reference")]
print(json.dumps([surface.measure(name, "13a", *lines).score for name in ("bleu", "chrf++", "ter")]))
""",
    "comet": """
import json, sys
from pathlib import Path
from alma_pipeline.ml import neural
from alma_pipeline.ml.segment_cache import SegmentCache
from alma_pipeline.schema import Hardware, Neural
folder = Path(sys.argv[1])
lines = [(folder / name).read_text(encoding="utf-8").splitlines() for name in ("source", "hypothesis", "reference")]
segments = [neural.Segment(*row) for row in zip(*lines)]
model = Neural(model=str(folder / "models/regression/checkpoints/model.ckpt"))
hardware = Hardware(name="benchmark", comet_python=None, comet_batch=16)
cache = SegmentCache(Path(sys.argv[1]) / f"{sys.argv[2]}.db")
print(json.dumps(sum(neural.score(model, segments, hardware, cache, lambda done, total: None).scores) / len(segments)))
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


def main(what: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_segments(folder, count)
        if what == "comet":
            script = [
                str(ROOT / ".venv-comet/bin/python"),
                "-I",
                str(ROOT / "tests/comet_model.py"),
                str(folder / "models"),
                "6",
                "128",
                "512",
            ]
            subprocess.run(script, check=True, capture_output=True)
        sides: list[Callable[[int], float]] = [
            lambda turn: timed([sys.executable, "-c", OURS[what], name, str(turn)]),
            lambda turn: timed(theirs(what, folder)),
        ]
        took = [min(times) for times in zip(*[[side(turn) for side in sides] for turn in range(2)], strict=True)]
    print(
        json.dumps(
            {"segments": count, "ours": round(took[0], 1), "theirs": round(took[1], 1), "ratio": round(took[1] / took[0], 2)}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
