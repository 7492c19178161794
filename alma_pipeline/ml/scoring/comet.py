"""Neural metrics: segment scores by COMET models, which run in separate processes and an environment of their own (B43).

This side starts a `comet_worker` under COMET's Python on each device, sends them the segments that are not cached, and caches
every score as it arrives. It imports neither torch nor comet.
"""

import contextlib
import json
import math
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alma_pipeline import disk
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.lease import held
from alma_pipeline.ml import json_process
from alma_pipeline.ml.json_process import JsonProcess
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
    """A running `comet_worker`, on the device that `variables` name."""

    def __init__(self, metric: Neural, hardware: Hardware, variables: Mapping[str, str]) -> None:
        self.metric = metric
        self.python = comet_interpreter(hardware.comet_python)
        words = [*_command(self.python, metric), "--device", hardware.device]
        words += ["--precision", metric.precision, "--batch", str(hardware.comet_batch)]
        words += [] if metric.reference else ["--without-reference"]
        self.process = JsonProcess(words, "COMET's worker", f"scoring with {metric.model}", os.environ | variables)

    def found_model(self) -> "FoundModel":
        """What the worker has found its model to be, which decides the parts of a segment that it gets.

        Its first line, before any score. Raises UserError or PipelineError if it cannot start.
        """
        greeting = self._line()
        revision = greeting["revision"]
        reference = "yes" if greeting["reference"] else "no"
        parts = [
            revision if "sha256:" in revision else f"{self.metric.model}@{revision}",
            f"reference:{reference}",
            f"precision:{self.metric.precision}",
            f"comet:{greeting['comet']}",
        ]
        return FoundModel(greeting["reference"], greeting["joint"], "|".join(parts))

    def scores(self, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Send the rows and yield the worker's line for each as it arrives. Raises PipelineError if the worker ends early."""
        self.process.send([*rows, {"end": len(rows)}])
        self.process.end_input()
        while "done" not in (line := self._line()):
            yield line

    def _line(self) -> dict[str, Any]:
        line = self.process.receive()
        if "error" in line:
            raise worker_error(line["kind"], line["error"], self.metric.model, str(self.python))
        return line

    def close(self) -> None:
        """Kill the worker."""
        self.process.close()


@dataclass(frozen=True)
class FoundModel:
    """What a model is, as its worker has found it."""

    reference: bool
    """Whether it reads references."""
    joint: bool
    """Whether it reads all parts of a segment as one sequence."""
    signature: str


def find_model(metric: Neural, hardware: Hardware) -> FoundModel:
    """Start a worker until it has found its model, which is then here. Raises UserError or PipelineError if it cannot."""
    worker = CometWorker(metric, hardware, json_process.device_groups(hardware)[0])
    try:
        return worker.found_model()
    finally:
        worker.close()


def download(metric: Neural, hardware: Hardware) -> None:
    """Download a model from the hub, and the files of the encoder that it names; the progress goes to standard error.

    Raises UserError or PipelineError if that fails.
    """
    python = comet_interpreter(hardware.comet_python)
    with sole_download(disk.hub_cache()):
        done = subprocess.run([*_command(python, metric), "--download"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        error = json.loads(done.stdout or b'{"kind": "its process", "error": "ended without a reason"}')
        raise worker_error(error["kind"], error["error"], metric.model, str(python))


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


def _command(python: Path, metric: Neural) -> list[str]:
    """The worker's command line; -I: COMET's interpreter must not import this project's packages."""
    return [str(python), "-I", str(WORKER), "--model", metric.model, "--revision", metric.revision]


def score(
    metric: Neural, segments: Sequence[CometSegment], hardware: Hardware, cache: SegmentCache, progress: Progress
) -> CometScores:
    """Score segments of all directions with one model, which each device loads once, and only if a score is not cached.

    Batches do not depend on the cache, and a batch is sent if any of its segments is not cached: a resumed run therefore gives
    the scores of an uninterrupted one, bit for bit. `progress(done, total)` counts distinct segments.

    Raises UserError for a missing model or environment, and PipelineError for a crash or a score that is not finite; scores that
    arrived before are cached.
    """
    workers = [CometWorker(metric, hardware, (groups := json_process.device_groups(hardware))[0])]
    try:
        model = workers[0].found_model()
        if model.reference and any(segment.reference is None for segment in segments):
            raise UserError(
                f"{metric.model} needs a reference, and these segments have none; use a model that needs none, such as "
                "wmt22-cometkiwi-da"
            )
        # Equal segments are scored once; batches are formed over all of them, cached or not.
        keys = [segment_key(model.signature, *_parts(segment, model.reference)) for segment in segments]
        distinct = dict(zip(keys, segments, strict=True))
        known = cache.find(distinct)
        batches = [batch for batch in _batches(distinct, hardware.comet_batch, model.joint) if not set(batch) <= set(known)]
        rows = [[_row(name, distinct[name], model.reference) for name in batch] for batch in batches]
        # The other workers start only for batches that they get.
        workers += [CometWorker(metric, hardware, group) for group in groups[1 : len(rows)]]
        done = len(distinct) - len({name for batch in batches for name in batch} - set(known))
        # Cache each batch as it arrives: an interruption loses at most one of each worker.
        for lines in _all_scores(workers, rows, hardware.comet_batch):
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
        for worker in workers:
            worker.close()
    if absent := set(distinct) - set(known):
        raise PipelineError(f"COMET's worker returned no score for {len(absent)} of {len(distinct)} segments")
    return CometScores([SCALE * known[name].score for name in keys], [known[name].cut for name in keys], model.signature)


def _all_scores(
    workers: Sequence[CometWorker], batches: Sequence[list[dict[str, Any]]], size: int
) -> Iterator[list[dict[str, Any]]]:
    """The lines of each batch as it is scored, by whichever worker. Raises the error of the first worker that fails.

    Batches come longest first and are dealt out in turn, so that shares cost about the same. A worker keeps them whole, so that
    a score does not depend on the number of workers.
    """
    arrived: queue.SimpleQueue[list[dict[str, Any]] | Exception | None] = queue.SimpleQueue()

    def follow(place: int, worker: CometWorker) -> None:
        try:
            if place:  # the first has been asked already
                worker.found_model()
            rows = [row for batch in batches[place :: len(workers)] for row in batch]
            for lines in _grouped(worker.scores(rows), size):
                arrived.put(lines)
            arrived.put(None)
        except Exception as error:  # raised where the lines are read
            arrived.put(error)

    for place, worker in enumerate(workers):
        threading.Thread(target=follow, args=(place, worker), daemon=True).start()
    running = len(workers)
    while running:
        found = arrived.get()
        if isinstance(found, Exception):
            raise found
        if found is None:
            running -= 1
        else:
            yield found


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
