"""One rank of one node: read the job, run the stage, write the result. Never Hydra, never MLflow.

python -m alma_pipeline.execution.worker WORK_FOLDER TOKEN        (as torchrun, srun or the DeepSpeed launcher start it)
"""

import importlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alma_pipeline.errors import UserError
from alma_pipeline.execution import energy
from alma_pipeline.files import lock_file, sync_tree, write_json
from alma_pipeline.job import read_job

USER_MISTAKE = 2
FAILURE = 1
ABANDONED = 3
WATCH_SECONDS = 0.5


def main(work: Path, token: str) -> int:
    """Run the job in `work`, as long as `token` is its owner's; the exit code says how it ended."""
    if not (work / "owner.json").exists():
        print(f"{work} is not there on {socket.gethostname()}; the store must be on a disk that all nodes share", file=sys.stderr)
        return USER_MISTAKE
    os.chdir(work)
    rank = int(os.environ.get("RANK", "0"))
    guard = _guard(work, token, rank)
    try:
        job = read_job(work / "job.json")
        job.out.mkdir(exist_ok=True)
        meter = energy.begin(job)
        result = importlib.import_module(f"stages.{job.config.kind}.run").run(job)
        if rank == 0:
            sync_tree(job.out)  # a result says that the files are there, after a power cut too
            write_json(work / "result.json", result | meter.stop())
        return 0
    except UserError as error:
        if rank == 0:
            write_json(work / "error.json", {"message": str(error)})
        print(error, file=sys.stderr)
        return USER_MISTAKE
    except Exception:
        traceback.print_exc()
        # A file of its own: in the log, what a launcher has to say comes after it.
        (work / f"failed-{rank}.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return FAILURE
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if guard:
            guard.release()


def _guard(work: Path, token: str, rank: int) -> FileLock | None:
    """End when the parent that started this job is gone; rank 0 holds the worker's lock for life.

    The parent holds a lock of its own. Once that is free, or held in the name of another token, nobody will read
    this worker's result, and another worker may be waiting for the folder. A worker that comes too late, its parent
    killed while it was still importing, must not take the new owner's job for its own.
    """
    owner = _owner(work, token)
    lock = lock_file(owner["worker_lock"]) if rank == 0 else None
    if lock:
        lock.acquire(poll_interval=0.1)
        _owner(work, token)  # once more: it may have changed while we waited
    threading.Thread(target=_watch, args=(work, token, owner["owner_lock"]), daemon=True).start()
    return lock


def _owner(work: Path, token: str) -> dict[str, Any]:
    owner: dict[str, Any] = json.loads((work / "owner.json").read_text(encoding="utf-8"))
    if owner["token"] != token:
        print(f"process {owner['pid']} on {owner['host']} has no use for this worker; ending", file=sys.stderr, flush=True)
        os._exit(ABANDONED)
    return owner


def _watch(work: Path, token: str, owner_lock: str) -> None:
    parents = lock_file(owner_lock)
    while True:
        time.sleep(WATCH_SECONDS)
        try:
            _owner(work, token)
        except FileNotFoundError:
            return  # the parent has made the artifact of it and is clearing up
        try:
            parents.acquire(timeout=0)
        except Timeout:
            continue
        os._exit(ABANDONED)


if __name__ == "__main__":
    # At once, as a forked worker: libraries with threads of their own can abort while Python takes them down, and the work
    # is done and on disk by now.
    os._exit(main(Path(sys.argv[1]), sys.argv[2]))
