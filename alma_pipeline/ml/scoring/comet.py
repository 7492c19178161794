"""Neural metrics: segment scores by COMET models, which run in a separate process and environment (B43).

This side starts `comet_worker` under COMET's Python, sends it the segments that are not cached, and caches every score as it
arrives. It imports neither torch nor comet.
"""

import contextlib
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from alma_pipeline import disk
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.lease import held
from alma_pipeline.ml.scoring.segment_cache import CachedScore, SegmentCache, segment_key
from alma_pipeline.mounts import Reach, reach
from alma_pipeline.paths import comet_interpreter
from alma_pipeline.schema import Hardware, Neural

WORKER = Path(__file__).with_name("comet_worker.py")
SCALE = 100
"""COMET scores from about 0 to 1; papers report them times 100."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CometSegment:
    """One segment to score."""

    source: str
    hypothesis: str
    reference: str | None
    """None: no reference; models that need one are refused."""


@dataclass(frozen=True)
class CometScores:
    """Scores of a list of segments, in its order."""

    scores: list[float]
    """COMET's scores times 100."""
    cut: list[bool]
    """Whether the model's input was truncated (B48)."""
    signature: str


class CometWorker:
    """A running `comet_worker`. The constructor returns when the worker has found its model.

    Raises UserError or PipelineError if it cannot start.
    """

    def __init__(self, metric: Neural, hardware: Hardware) -> None:
        self.metric = metric
        # -I: COMET's interpreter must not import this project's packages.
        self.python = comet_interpreter(hardware.comet_python)
        words = [str(self.python), "-I", str(WORKER), "--model", metric.model, "--device", hardware.device]
        words += ["--precision", metric.precision, "--batch", str(hardware.comet_batch)]
        words += ["--revision", metric.revision]
        words += [] if metric.reference else ["--without-reference"]
        with sole_download(disk.hub_cache()):
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # stderr: the node's own log
            # The worker replies first with what its model is: that decides which parts of a segment it gets.
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
        """Send the rows and yield the worker's line for each as it arrives. Raises PipelineError if the worker ends early."""
        assert self.process.stdin is not None
        try:
            for row in [*rows, {"end": len(rows)}]:
                self.process.stdin.write(json.dumps(row).encode() + b"\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # the worker has ended; its last line, read below, has the reason
        while "done" not in (line := self._line()):
            yield line

    def _line(self) -> dict[str, Any]:
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        text = stdout.readline()
        if not text.endswith(b"\n"):
            code = self.process.wait()
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise PipelineError(f"COMET's worker ended with {ended} while scoring with {self.metric.model}; see its log above")
        line: dict[str, Any] = json.loads(text)
        if "error" in line:
            raise worker_error(line["kind"], line["error"], self.metric.model, str(self.python))
        return line

    def close(self) -> None:
        """Kill the worker and close the pipes to it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # unsent rows have no reader any more
                    stream.close()


def sole_download(cache: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other machines from downloading into the hub's cache meanwhile, where their file locks may not reach this one.

    COMET's huggingface_hub (0.36.2, file_download.py) appends to one file per download, and trusts its lock.
    """
    if reach(cache) is Reach.ALL:
        return contextlib.nullcontext()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    # Nothing can be downloaded into a cache that is read-only.
    return held(cache / "comet.lock") if os.access(cache, os.W_OK) else contextlib.nullcontext()


def score(
    metric: Neural, segments: Sequence[CometSegment], hardware: Hardware, cache: SegmentCache, progress: Progress
) -> CometScores:
    """Score segments of all directions with one model, which is loaded once, and only if a score is not cached.

    Batches do not depend on the cache, and a batch is sent if any of its segments is not cached: a resumed run therefore gives
    the scores of an uninterrupted one, bit for bit. `progress(done, total)` counts distinct segments.

    Raises UserError for a missing model or environment, and PipelineError for a crash or a score that is not finite; scores that
    arrived before are cached.
    """
    worker = CometWorker(metric, hardware)
    try:
        if worker.reference and any(segment.reference is None for segment in segments):
            raise UserError(
                f"{metric.model} needs a reference, and these segments have none; use a model that needs none, such as "
                "wmt22-cometkiwi-da"
            )
        # Equal segments are scored once; batches are formed over all of them, cached or not.
        keys = [segment_key(worker.signature, *_parts(segment, worker.reference)) for segment in segments]
        distinct = dict(zip(keys, segments, strict=True))
        known = cache.find(distinct)
        batches = [batch for batch in _batches(distinct, hardware.comet_batch, worker.joint) if not set(batch) <= set(known)]
        rows = [_row(name, distinct[name], worker.reference) for batch in batches for name in batch]
        missing = {row["id"] for row in rows} - set(known)
        done = len(distinct) - len(missing)
        # Cache each batch as it arrives: an interruption loses at most one.
        for lines in _grouped(worker.scores(rows), hardware.comet_batch):
            found = {line["id"]: CachedScore(line["score"], line["cut"]) for line in lines if line["id"] not in known}
            finite = {name: one for name, one in found.items() if math.isfinite(one.score)}
            cache.add(finite)
            if len(finite) < len(found):
                raise PipelineError(
                    f"{metric.model} gives scores that are not finite in {metric.precision}; use scorers.NAME.precision=fp32"
                )
            known |= found
            done += len(found)
            progress(done, len(distinct))
    finally:
        worker.close()
    if absent := set(distinct) - set(known):
        raise PipelineError(f"COMET's worker returned no score for {len(absent)} of {len(distinct)} segments")
    return CometScores([SCALE * known[name].score for name in keys], [known[name].cut for name in keys], worker.signature)


def _parts(segment: CometSegment, reference: bool) -> tuple[str, str, str | None]:
    return segment.source, segment.hypothesis, segment.reference if reference else None


def _batches(distinct: dict[str, CometSegment], size: int, joint: bool) -> list[list[str]]:
    """Keys in batches of similar length, longest first, so that a batch too large for memory fails at once.

    `joint`: the model reads all parts as one sequence, so the sum of their lengths counts; otherwise the longest part does.
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
    """Lines in groups of `size`; if the worker crashes, first the incomplete group, then the error."""
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


def with_local_model(metric: Neural, paths: Mapping[str, str]) -> Neural:
    """The metric with the path of its model file, if `paths` (digest → path) has its revision; else unchanged."""
    return replace(metric, model=paths.get(metric.revision, metric.model))


def worker_error(kind: str, text: str, model: str, python: str) -> PipelineError:
    """The worker's error: a UserError that says what to do if the kind is known, else a PipelineError (B47)."""
    page = f"https://huggingface.co/{model}"
    # By class name: the worker's exceptions come from packages that this process may not have.
    lacking = f"{python} lacks a package; run `make comet`, or set evaluation.comet.python to another interpreter"
    advice = {
        "GatedRepoError": f"it is gated; accept its licence at {page} with the account whose token is in HF_TOKEN",
        "RepositoryNotFoundError": f"{page} does not exist, or is private and HF_TOKEN has no access to it",
        "RevisionNotFoundError": f"{page} has no such revision",
        "LocalEntryNotFoundError": f"it is not cached and the hub is unreachable; download {page} where there is network access",
        "OfflineModeIsEnabled": f"it is not cached and HF_HUB_OFFLINE is set; download {page} once without it",
        "ModuleNotFoundError": lacking,
        "PackageNotFoundError": lacking,
        "OutOfMemoryError": "the device is out of memory; lower evaluation.comet.batch, or use a smaller model",
        "OSError": "the model, or the encoder named in its hparams.yaml, is neither cached nor reachable; "
        f"score one sentence with it where there is network access, which downloads both: {page}",
        "FileNotFoundError": "expected a hub repository, or a .ckpt file in a folder checkpoints/ next to hparams.yaml",
    }.get(kind)
    if advice is None:
        return PipelineError(f"COMET's worker failed while scoring with {model}: {kind}: {text}")
    return UserError(f"{model} cannot be used: {advice} ({kind}: {text[:300]})")
