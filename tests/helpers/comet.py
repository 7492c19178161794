"""Tiny real COMET checkpoints and a cache, for tests that run COMET's own Python. `make comet` makes its environment."""

import json
import subprocess
from pathlib import Path
from typing import Any

from alma_pipeline.ml.scoring import comet_worker
from alma_pipeline.ml.scoring.comet import CometScores, CometSegment, Progress, score
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.paths import COMET_PYTHON, comet_interpreter
from alma_pipeline.schema import Hardware, Neural

WORDS = ["der", "Hund", "schläft", "am", "Morgen", "nicht", "明天", "早上", "去", "北京。", "12", "a", "b!"]


def models(folder: Path) -> Path:
    """regression, referenceless, unified and xcomet under it."""
    script = Path(__file__).with_name("make_comet_models.py")
    done = subprocess.run(
        [str(comet_interpreter(None)), "-I", str(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def neural(folder: Path, name: str, **settings: Any) -> Neural:
    return Neural(model=str(folder / name / "checkpoints" / "model.ckpt"), **settings)


def hardware(python: str | None = None, batch: int = 16) -> Hardware:
    return Hardware(name="test", threads=1, comet_python=python, comet_batch=batch)


def segments(count: int) -> list[CometSegment]:
    """All different, of 1 to 12 words, in no order of length."""
    made = []
    for number in range(count):
        words = [WORDS[(number * step + step) % len(WORDS)] for step in range(1, 2 + number * 7 % 12)]
        made.append(CometSegment(" ".join(words), " ".join(words[::-1]) + f" {number}", " ".join(words[1:] or words)))
    return made


def scored(
    metric: Neural, found: list[CometSegment], cache: Path, progress: Progress = lambda done, total: None, batch: int = 16
) -> CometScores:
    return score(metric, found, hardware(batch=batch), SegmentCache(cache), progress)


def comet_score(work: Path, metric: Neural, found: list[CometSegment], reference: bool, *flags: str) -> list[dict[str, Any]]:
    """The rows that the command writes as JSON, in the order of the segments: "COMET", of 0 to 1, and XCOMET's "errors"."""
    flags = (*flags, "--to_json", str(work / "scores.json"))
    _command("comet-score", work, metric, found, reference, "-t", _file(work, "hypothesis", found), *flags)
    rows: list[dict[str, Any]] = json.loads((work / "scores.json").read_text(encoding="utf-8"))[str(work / "hypothesis")]
    return rows


def encoding(folder: Path, name: str, found: list[CometSegment]) -> dict[str, int]:
    """Of these segments how many are cut, and how many threads encode their text."""
    parts = [{"id": at, "src": one.source, "mt": one.hypothesis, "ref": one.reference} for at, one in enumerate(found)]
    checkpoint = neural(folder, name).model
    command = [str(COMET_PYTHON), "-I", str(Path(__file__).with_name("comet_encoding.py")), comet_worker.__file__, checkpoint]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=json.dumps(parts))
    told: dict[str, int] = json.loads(done.stdout)
    return told


def comet_compare(work: Path, metric: Neural, found: list[CometSegment], other: list[CometSegment], *flags: str) -> str:
    """What the command prints of two systems' hypotheses for the same sources and references."""
    (work / "other").mkdir()
    both = _file(work, "hypothesis", found), _file(work / "other", "hypothesis", other)
    return _command("comet-compare", work, metric, found, True, "-t", *both, *flags)


def _command(name: str, work: Path, metric: Neural, found: list[CometSegment], reference: bool, *words: str) -> str:
    files = ["-s", _file(work, "source", found), *(["-r", _file(work, "reference", found)] if reference else [])]
    command = [str(COMET_PYTHON.with_name(name)), "--model", metric.model, "--gpus", "0", "--quiet", *files, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _file(work: Path, part: str, found: list[CometSegment]) -> str:
    (work / part).write_text("".join(f"{getattr(segment, part)}\n" for segment in found), encoding="utf-8")
    return str(work / part)
