"""A job whose result is for now: the ordinary worker does it in a folder of its own, and no artifact comes of it.

<root>/aside/<name>-XXXX/   a store of one work folder; gone when the job is done, and `gc` takes what a kill left

What is worth keeping, scores that took a model, the job keeps in the cache of the store itself.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.execution.attempt import failure, is_finished, tail
from alma_pipeline.execution.launch import start_alone
from alma_pipeline.execution.processes import Running
from alma_pipeline.execution.runner import POLL_SECONDS
from alma_pipeline.job import Input, Job
from alma_pipeline.schema import Hardware, NodeConfig
from alma_pipeline.store.store import Store, Work

Lines = list[dict[str, Any]]
KEY = "0" * 64
"""Of a job that makes no artifact; its folder is its own, so nothing else has this key there."""


@contextmanager
def carried_out(
    root: Path,
    config: NodeConfig,
    hardware: Hardware,
    inputs: Mapping[str, Input],
    feed: Callable[[Path], None],
    report: Callable[[Lines], None],
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What the job left, and what it returned. `feed` puts files of its own into the work folder beforehand.

    Raises UserError or StageFailed as the worker ended; a failed job's folder stays, with its log.
    """
    folder = _folder(root / "aside", config.kind)
    store = Store(folder)
    work = store.begin(config.kind, KEY)
    failed = True
    try:
        job = Job(config.kind, KEY, str(work.path), config, hardware, dict(inputs), store=str(root))
        job.out.mkdir()
        job.write()
        feed(work.path)
        # Nothing runs beside it, so it may have the whole machine.
        running = start_alone(replace(hardware, side_by_side=1), work.path, work.token, config.distributed)
        _follow(running, config.kind, work, report)
        failed = False
        yield job.out, json.loads((work.path / "result.json").read_text(encoding="utf-8"))
    except UserError:
        failed = False
        raise
    finally:
        work.close()
        if not failed:
            shutil.rmtree(folder)


def _follow(running: Running, name: str, work: Work, report: Callable[[Lines], None]) -> None:
    """Pass the worker's lines on until it ends. Raises UserError or StageFailed when it ends badly."""
    lines = tail(work.path / "metrics.jsonl")
    try:
        while (code := running.poll()) is None:
            if found := next(lines):
                report(found)
            time.sleep(POLL_SECONDS)
    except BaseException:
        try:
            work.revoke()  # a launcher may end and leave ranks behind, on nodes that no signal of ours reaches
        finally:
            running.stop()
        raise
    if found := next(lines):
        report(found)
    if code != 0 or not is_finished(work.path):
        raise failure(name, work.path, code)


def _folder(parent: Path, name: str) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    except OSError as error:
        raise UserError(
            f"the store cannot be written: {parent}: {error.strerror}; set ALMA_PIPELINE_STORE to a writable folder"
        ) from error
