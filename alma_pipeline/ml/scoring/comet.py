"""Neural metrics: segment scores from a COMET model that runs in a process and an environment of its own (B43).

This end starts `comet_worker` under COMET's Python, sends it what no earlier run has scored, and keeps every score the moment
it arrives. It computes nothing itself and imports neither torch nor comet.
"""

import contextlib
import json
import math
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.ml.scoring.segment_cache import CachedScore, SegmentCache, segment_key
from alma_pipeline.paths import comet_interpreter
from alma_pipeline.schema import Hardware, Neural

WORKER = Path(__file__).with_name("comet_worker.py")
SCALE = 100
"""COMET scores from about 0 to 1; papers report them times 100."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CometSegment:
    """What is scored."""

    source: str
    hypothesis: str
    reference: str | None
    """None: there is none, and a metric that cannot do without is refused."""


@dataclass(frozen=True)
class CometScores:
    """Of segments, in their order, times 100."""

    scores: list[float]
    cut: list[bool]
    """Whether the model saw only its beginning (B48)."""
    signature: str


class CometWorker:
    """A running `comet_worker`, from its greeting to its last score."""

    def __init__(self, metric: Neural, hardware: Hardware) -> None:
        self.metric = metric
        self.python = comet_interpreter(hardware.comet_python)
        words = [str(self.python), "-I", str(WORKER), "--model", metric.model, "--device", hardware.device]
        words += ["--precision", metric.precision, "--batch", str(hardware.comet_batch)]
        words += ["--revision", metric.revision]
        words += [] if metric.reference else ["--without-reference"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # stderr: the node's own log
        try:
            greeting = self._line()
        except PipelineError:
            self.close()
            raise
        self.reference: bool = greeting["reference"]
        self.joint: bool = greeting["joint"]
        self.signature = "|".join(
            [
                f"{metric.model}@{greeting['revision']}" if "sha256:" not in greeting["revision"] else greeting["revision"],
                f"reference:{'yes' if self.reference else 'no'}",
                f"precision:{metric.precision}",
                f"comet:{greeting['comet']}",
            ]
        )

    def scores(self, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The worker's line for each row, as they come. Raises PipelineError when it ends before its last one."""
        assert self.process.stdin is not None
        try:
            for row in [*rows, {"end": len(rows)}]:
                self.process.stdin.write(json.dumps(row).encode() + b"\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended; what it said before tells why
        while "done" not in (line := self._line()):
            yield line

    def _line(self) -> dict[str, Any]:
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        text = stdout.readline()
        if not text.endswith(b"\n"):
            code = self.process.wait()
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise PipelineError(f"COMET's worker ended with {ended} while scoring by {self.metric.model}; its log is above")
        line: dict[str, Any] = json.loads(text)
        if "error" in line:
            raise worker_error(line["kind"], line["error"], self.metric.model, str(self.python))
        return line

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what is left to send has nobody to read it
                    stream.close()


def score(
    metric: Neural, segments: Sequence[CometSegment], hardware: Hardware, cache: SegmentCache, progress: Progress
) -> CometScores:
    """Score segments of all directions with one model, which is loaded once and only if something is new.

    A batch is made of the same segments whatever the cache knows of them, and goes out when one of them is missing: so
    the scores after an interruption are those of an uninterrupted run to the last bit. `progress(done, total)` counts
    distinct segments. Raises UserError for a model or an environment that is not there, PipelineError for a crash;
    every score that arrived before either is kept.
    """
    worker = CometWorker(metric, hardware)
    try:
        if worker.reference and any(segment.reference is None for segment in segments):
            raise UserError(
                f"{metric.model} needs a reference, and there is none here; take a model without, as wmt22-cometkiwi-da"
            )
        keys = [segment_key(worker.signature, *_parts(segment, worker.reference)) for segment in segments]
        distinct = dict(zip(keys, segments, strict=True))
        known = cache.find(distinct)
        batches = [batch for batch in _batches(distinct, hardware.comet_batch, worker.joint) if not set(batch) <= set(known)]
        rows = [_row(name, distinct[name], worker.reference) for batch in batches for name in batch]
        missing = {row["id"] for row in rows} - set(known)
        done = len(distinct) - len(missing)
        for lines in _grouped(worker.scores(rows), hardware.comet_batch):
            found = {line["id"]: CachedScore(line["score"], line["cut"]) for line in lines if line["id"] not in known}
            finite = {name: one for name, one in found.items() if math.isfinite(one.score)}
            cache.keep(finite)
            if len(finite) < len(found):
                raise PipelineError(
                    f"{metric.model} gives scores that are no numbers in {metric.precision}; take scorers.NAME.precision=fp32"
                )
            known |= found
            done += len(found)
            progress(done, len(distinct))
    finally:
        worker.close()
    if absent := set(distinct) - set(known):
        raise PipelineError(f"COMET's worker left out {len(absent)} of {len(distinct)} segments")
    return CometScores([SCALE * known[name].score for name in keys], [known[name].cut for name in keys], worker.signature)


def _parts(segment: CometSegment, reference: bool) -> tuple[str, str, str | None]:
    return segment.source, segment.hypothesis, segment.reference if reference else None


def _batches(distinct: dict[str, CometSegment], size: int, joint: bool) -> list[list[str]]:
    """Keys in batches of like lengths, the longest first: what does not fit into memory fails at once.

    A model that reads all parts as one sequence pads to the longest sum (`joint`), any other to the longest part.
    """

    def longest(name: str) -> tuple[int, int, str]:
        segment = distinct[name]
        sizes = [len(segment.source), len(segment.hypothesis), len(segment.reference or "")]
        return -max(sizes) * (not joint), -sum(sizes), name

    ordered = sorted(distinct, key=longest)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _row(name: str, segment: CometSegment, reference: bool) -> dict[str, Any]:
    row = {"id": name, "src": segment.source, "mt": segment.hypothesis}
    return row | {"ref": segment.reference or ""} if reference else row


def _grouped(lines: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Lines by the batch; at a crash those that came before it, and then the crash."""
    group: list[dict[str, Any]] = []
    try:
        for line in lines:
            group.append(line)
            if len(group) == size:
                yield group
                group = []
    except PipelineError:
        if group:
            yield group
        raise
    if group:
        yield group


def with_local_model(metric: Neural, places: Mapping[str, str]) -> Neural:
    """A metric that is a file with the file's path, where `places` (digest to path) knows it."""
    return replace(metric, model=places.get(metric.revision, metric.model))


def worker_error(kind: str, text: str, model: str, python: str) -> PipelineError:
    """The worker's error as one that says what to do (B47)."""
    page = f"https://huggingface.co/{model}"
    lacking = f"{python} lacks a package; run `make comet`, or give another as evaluation.comet.python"
    advice = {
        "GatedRepoError": f"its licence must be accepted on {page} by the account whose token HF_TOKEN holds",
        "RepositoryNotFoundError": f"{page} does not exist, or is private and HF_TOKEN holds no token that may read it",
        "RevisionNotFoundError": f"{page} has no such revision",
        "LocalEntryNotFoundError": f"it is not in the cache and the hub cannot be reached; fetch {page} where there is a network",
        "OfflineModeIsEnabled": f"it is not in the cache and HF_HUB_OFFLINE is set; download {page} once without it",
        "ModuleNotFoundError": lacking,
        "PackageNotFoundError": lacking,
        "OutOfMemoryError": "the device's memory is too small; lower evaluation.comet.batch, or take a smaller model",
        "OSError": "it, or the encoder that its hparams.yaml names, is neither in the cache nor to be had; "
        f"fetch both once where there is a network, by scoring a sentence: {page}",
        "FileNotFoundError": "expected a repository of the hub, or a .ckpt file in a folder checkpoints/ below its hparams.yaml",
    }.get(kind)
    if advice is None:
        return PipelineError(f"COMET's worker failed while scoring by {model}: {kind}: {text}")
    return UserError(f"{model} cannot be used: {advice} ({kind}: {text[:300]})")
