"""Tiny real COMET checkpoints and a cache, for tests that run COMET's own Python. `make comet` makes its environment."""

import subprocess
from pathlib import Path
from typing import Any

from alma_pipeline.ml.neural import Progress, Scored, Segment, interpreter, score
from alma_pipeline.ml.segment_cache import SegmentCache
from alma_pipeline.schema import Hardware, Neural

WORDS = ["der", "Hund", "schläft", "am", "Morgen", "nicht", "明天", "早上", "去", "北京。", "12", "a", "b!"]


def models(folder: Path) -> Path:
    """regression, referenceless and unified under it."""
    script = Path(__file__).with_name("comet_model.py")
    done = subprocess.run([str(interpreter(None)), "-I", str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def neural(folder: Path, name: str, **settings: Any) -> Neural:
    return Neural(model=str(folder / name / "checkpoints" / "model.ckpt"), **settings)


def hardware(python: str | None = None, batch: int = 16) -> Hardware:
    return Hardware(name="test", threads=1, comet_python=python, comet_batch=batch)


def segments(count: int) -> list[Segment]:
    """All different, of 1 to 12 words, in no order of length."""
    made = []
    for number in range(count):
        words = [WORDS[(number * step + step) % len(WORDS)] for step in range(1, 2 + number * 7 % 12)]
        made.append(Segment(" ".join(words), " ".join(words[::-1]) + f" {number}", " ".join(words[1:] or words)))
    return made


def scored(
    metric: Neural, found: list[Segment], cache: Path, progress: Progress = lambda done, total: None, batch: int = 16
) -> Scored:
    return score(metric, found, hardware(batch=batch), SegmentCache(cache), progress)
