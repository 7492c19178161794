"""A one-off job: an ordinary worker in a temporary folder, leaving no artifact.

<root>/aside/<name>-XXXX/   a store of one work folder; deleted after the job, or by `gc` if the job was killed

Results worth keeping, such as a model's scores, go to the cache of the main store.
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
from alma_pipeline.execution import out_of_memory
from alma_pipeline.execution.attempt import follow_metrics, has_result
from alma_pipeline.execution.failure import worker_error
from alma_pipeline.execution.launch import start_without_server
from alma_pipeline.execution.processes import WorkerHandle
from alma_pipeline.execution.runner import POLL_SECONDS
from alma_pipeline.job import Input, Job
from alma_pipeline.schema import Hardware, NodeConfig
from alma_pipeline.store.store import Store, WorkFolder

MetricsLines = list[dict[str, Any]]
"""New lines of a metrics.jsonl."""
PLACEHOLDER_KEY = "0" * 64
"""Placeholder key: the job makes no artifact, and its temporary store holds nothing else."""


@contextmanager
def run_one_off(
    root: Path,
    config: NodeConfig,
    hardware: Hardware,
    inputs: Mapping[str, Input],
    feed: Callable[[Path], None],
    report: Callable[[MetricsLines], None],
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run a job and give its output folder and its result; both are deleted when the context exits.

    `feed(work)` writes the job's own files into the work folder first; `report` gets each batch of new metrics lines.
    Raises UserError or StageFailed if the worker fails; after StageFailed the folder and its log are kept.
    """
    # A store of its own, so that neither its lock nor its files can meet those of a node.
    folder = _folder(root / "aside", config.kind)
    store = Store(folder)
    work = store.begin(config.kind, PLACEHOLDER_KEY)
    failed = True
    try:
        job = Job(config.kind, PLACEHOLDER_KEY, str(work.path), config, hardware, dict(inputs), store=str(root))
        job.out.mkdir()
        job.write()
        feed(work.path)
        # No other node runs at the same time, so it may use the whole machine.
        killed_before = out_of_memory.kill_count()
        running = start_without_server(replace(hardware, max_parallel_nodes=1), work.path, work.token, config.distributed)
        _follow(running, job, killed_before, work, report)
        failed = False
        yield job.out, json.loads((work.path / "result.json").read_text(encoding="utf-8"))
    except UserError:  # its message is complete; nobody needs the log
        failed = False
        raise
    finally:
        work.close()
        if not failed:
            shutil.rmtree(folder)


def _follow(
    running: WorkerHandle, job: Job, killed_before: int, work: WorkFolder, report: Callable[[MetricsLines], None]
) -> None:
    """Report the worker's metrics until it ends. Raises UserError or StageFailed if it fails."""
    new_metrics = follow_metrics(work.path / "metrics.jsonl")
    try:
        while (code := running.poll()) is None:
            if lines := next(new_metrics):
                report(lines)
            time.sleep(POLL_SECONDS)
    except BaseException:  # Ctrl-C too: no worker may outlive the command
        try:
            work.revoke()  # a launcher may exit and leave ranks on machines that our signals do not reach
        finally:
            running.stop()
        raise
    # The worker may have written more between the last look and its end.
    if lines := next(new_metrics):
        report(lines)
    if code != 0 or not has_result(work.path):
        raise worker_error(job, code, killed_before)


def _folder(parent: Path, name: str) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    except OSError as error:
        raise UserError(
            f"the store cannot be written: {parent}: {error.strerror}; set ALMA_PIPELINE_STORE to a writable folder"
        ) from error
