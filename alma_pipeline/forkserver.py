"""A process that has imported the training libraries once and forks a worker for each job.

    python -m alma_pipeline.forkserver      one line in: {"work": FOLDER}; one line out: {"pid": N}, then {"code": N}

It never uses a device or starts a thread of its own, so that a fork is a clean start. When its standard input
closes, the parent is gone: the running worker is killed and the server ends.
"""

import importlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path

PRELOADED = ("torch", "transformers", "peft", "deepspeed", "safetensors.torch", "alma_pipeline.worker")


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print on import belongs in the log
    for name in PRELOADED:
        importlib.import_module(name)
    replies.write(json.dumps({"ready": True}) + "\n")
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := reader.readline():
        work = Path(json.loads(line)["work"])
        pid, alive = _fork(work)
        replies.write(json.dumps({"pid": pid}) + "\n")
        code = _wait(pid, alive, reader.fileno())
        replies.write(json.dumps({"code": code}) + "\n")


def _fork(work: Path) -> tuple[int, int]:
    """The worker's process id, and a pipe that reads as closed once it has ended."""
    alive, held_by_worker = os.pipe()
    pid = os.fork()
    if pid:
        os.close(held_by_worker)
        return pid, alive
    code = 1
    try:
        os.close(alive)
        os.setsid()
        _redirect(work / "log.txt")
        code = importlib.import_module("alma_pipeline.worker").main(work)
    except BaseException:  # a forked child must never return into the server's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    """The worker's output goes to its own log; it reads nothing."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _wait(pid: int, alive: int, parent: int) -> int:
    """The exit code of the worker, negative for a signal; kills it when the parent goes away."""
    ready, _, _ = select.select([alive, parent], [], [])
    if alive not in ready:
        os.killpg(pid, signal.SIGKILL)
    os.close(alive)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
