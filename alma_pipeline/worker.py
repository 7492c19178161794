"""One rank of one node: read the job, run the stage, write the result. Never Hydra, never MLflow.

python -m alma_pipeline.worker WORK_FOLDER        (as torchrun, srun or the DeepSpeed launcher start it)
"""

import importlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alma_pipeline.errors import UserError
from alma_pipeline.job import read_job
from alma_pipeline.store import write_json

USER_MISTAKE = 2
FAILURE = 1
ABANDONED = 3


def main(work: Path) -> int:
    """Run the job in `work`; the exit code says how it ended."""
    os.chdir(work)
    rank = int(os.environ.get("RANK", "0"))
    guard = _guard(work) if rank == 0 else None
    try:
        job = read_job(work / "job.json")
        job.out.mkdir(exist_ok=True)
        result = importlib.import_module(f"stages.{job.config.kind}.run").run(job)
        if rank == 0:
            write_json(work / "result.json", result)
        return 0
    except UserError as error:
        if rank == 0:
            write_json(work / "error.json", {"message": str(error)})
        print(error, file=sys.stderr)
        return USER_MISTAKE
    except Exception:
        traceback.print_exc()
        return FAILURE
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if guard:
            guard.release()


def _guard(work: Path) -> FileLock:
    """Hold the worker's lock for life, and end when the parent that started this job is gone.

    The parent holds a lock of its own. Once that is free, or held in the name of another token, nobody will read
    this worker's result, and another worker may be waiting for the folder.
    """
    owner: dict[str, Any] = json.loads((work / "owner.json").read_text(encoding="utf-8"))
    lock = FileLock(owner["worker_lock"], thread_local=False)
    lock.acquire(poll_interval=0.1)
    threading.Thread(target=_watch, args=(work, owner), daemon=True).start()
    return lock


def _watch(work: Path, owner: dict[str, Any]) -> None:
    parents = FileLock(owner["owner_lock"], thread_local=False)
    while True:
        time.sleep(0.5)
        try:
            current = json.loads((work / "owner.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return  # the parent has made the artifact of it and is clearing up
        if current["token"] != owner["token"]:
            os._exit(ABANDONED)
        try:
            parents.acquire(timeout=0)
        except Timeout:
            continue
        os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
