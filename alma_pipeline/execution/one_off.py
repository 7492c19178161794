"""A one-off job: an ordinary worker in a folder beside the artifacts, leaving no artifact.

<root>/aside/<name>-XXXX/   a store of one work folder; deleted after the job, or by `gc` if the job was killed

A job with a key continues in the folder of that key where an interrupted one left it. Results worth keeping, such as a
model's scores, go to the cache of the root.
"""

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from alma_pipeline import files
from alma_pipeline.errors import StageFailed, UserError
from alma_pipeline.execution import out_of_memory
from alma_pipeline.execution.attempt import clear_leftovers, follow_metrics, has_result
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
"""Placeholder key: the job makes no artifact, and its own store holds nothing else."""
WAIT_SECONDS = 3.0
"""How long the worker of a killed command gets to notice that and to leave its folder."""


@contextmanager
def run_one_off(
    root: Path,
    config: NodeConfig,
    hardware: Hardware,
    inputs: Mapping[str, Input],
    feed: Callable[[Path], None],
    report: Callable[[MetricsLines], None],
    key: str = "",
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run a job below `root` (see `scratch_root`) and give its output folder and its result; both are deleted at the exit.

    `feed(work)` writes the job's own files into the work folder first; `report` gets each batch of new metrics lines. `key`
    names everything that determines the result: an interrupted job is then continued by the next one with its key. Raises
    UserError or StageFailed if the worker fails; after StageFailed the folder and its log are kept.
    """
    folder, work = _begin(root / "aside", config.kind, key)
    kept = False
    try:
        job = Job(config.kind, PLACEHOLDER_KEY, str(work.path), config, hardware, dict(inputs), store=str(root))
        # An earlier worker may have finished whose results nobody has read yet.
        if not has_result(work.path):
            clear_leftovers(work.path, fresh=False)
            (work.path / "metrics.jsonl").unlink(missing_ok=True)
            job.out.mkdir(exist_ok=True)
            job.write()
            feed(work.path)
            # No other node runs at the same time, so it may use the whole machine.
            alone = replace(hardware, max_parallel_nodes=1)
            killed_before = out_of_memory.kill_count()
            running = start_without_server(alone, work.path, work.token, config.distributed)
            _follow(running, job, killed_before, work, report)
        yield job.out, json.loads((work.path / "result.json").read_text(encoding="utf-8"))
    except StageFailed:
        kept = True  # its message names the log
        raise
    except BrokenPipeError:  # whoever reads the results wants no more of them
        raise
    except BaseException:
        kept = bool(key) and (has_result(work.path) or any(work.path.glob("resume/*")))
        raise
    finally:
        _end(folder, work, kept)


@contextmanager
def scratch_root(store: Path, otherwise: Path) -> Iterator[Path]:
    """The store if a job can run in it, else `otherwise`: a store that is read-only has no room for jobs.

    `otherwise` is created, and deleted when the context exits unless a job left something in it. Raises UserError.
    """
    if _is_writable(store):
        yield store
        return
    _make_private(otherwise)
    try:
        yield otherwise
    finally:
        for folder in (otherwise / "aside", otherwise):
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _is_writable(store: Path) -> bool:
    try:
        (store / "aside").mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=store / "aside"):
            return True
    except OSError:
        return False


def _make_private(otherwise: Path) -> None:
    """Create a folder that only this user reads. Raises UserError if it cannot be created or is another user's."""
    try:
        otherwise.mkdir(mode=0o700, parents=True, exist_ok=True)
        if otherwise.is_symlink() or otherwise.stat().st_uid != os.getuid():
            raise UserError(f"{otherwise} belongs to another user; set TMPDIR to a folder of your own")
    except OSError as error:
        raise UserError(
            f"the store is read-only, and {otherwise} cannot be created ({error.strerror}); set TMPDIR to a writable folder"
        ) from error


def _begin(aside: Path, name: str, key: str) -> tuple[Path, WorkFolder]:
    """The folder of this key; a new one without a key, and while another process works in that of the key."""
    # A store of its own, so that neither its lock nor its files can meet those of a node.
    aside.mkdir(parents=True, exist_ok=True)
    folder, until = aside / f"{name}-{key[:12]}", time.monotonic() + WAIT_SECONDS
    while key and time.monotonic() < until:
        if work := Store(folder).begin_if_free(name, PLACEHOLDER_KEY):
            return folder, work
        time.sleep(POLL_SECONDS)
    folder = aside / f"{name}-{secrets.token_hex(4)}"
    return folder, Store(folder).begin(name, PLACEHOLDER_KEY)


def _end(folder: Path, work: WorkFolder, kept: bool) -> None:
    """Delete the folder, unless its work is kept, and release it."""
    done = None
    try:
        if not kept:
            # Renamed first: another process may look for the same key, and must not find half a folder.
            done = folder.rename(folder.with_name(f"{folder.name}.done-{secrets.token_hex(4)}"))
    finally:
        work.close()
    # Released first: NFS keeps a deleted file under another name while it is open, and the folder would not be empty.
    if done:
        shutil.rmtree(done, ignore_errors=True)  # `gc` finds what is left


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
    files.look_again(work.path)
    if code != 0 or not has_result(work.path):
        raise worker_error(job, code, killed_before)
