"""A process that has imported the training libraries once and forks a worker for each job.

    python -m alma_pipeline.execution.fork_server MODULES...

One line out when they are imported: {"ready": true}. Then one line in for each job, {"work": FOLDER, "token": T},
answered by {"pid": N} at once and by {"pid": N, "code": C} when that worker has ended. Several may run at a time.

It never uses a device or starts a thread of its own, so that a fork is a clean start. When its standard input
closes, the parent is gone: the running workers are killed and the server ends.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn, TextIO

POLL_SECONDS = 0.02


def main(modules: list[str]) -> None:
    """Import once, then fork a worker for each line on stdin; ends when stdin does, and its workers with it."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print on import belongs in the log
    for name in modules:
        importlib.import_module(name)
    replies.write(json.dumps({"ready": True}) + "\n")
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    running: list[int] = []
    while True:
        if select.select([reader], [], [], POLL_SECONDS if running else None)[0]:
            line = reader.readline()
            if not line:
                break
            running.append(_fork(json.loads(line), (replies.fileno(), reader.fileno())))
            replies.write(json.dumps({"pid": running[-1]}) + "\n")
        running = [pid for pid in running if not _ended(pid, replies)]
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(job: dict[str, str], pipes: tuple[int, int]) -> int:
    pid = os.fork()
    if not pid:
        for pipe in pipes:  # else the parent would not see the server end before its worker does
            os.close(pipe)
        _work(Path(job["work"]), job["token"])
    with contextlib.suppress(ProcessLookupError):
        os.setpgid(pid, pid)  # here as well as in the worker: whoever comes first, a signal to the group finds it
    return pid


def _work(work: Path, token: str) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        _redirect(work / "log.txt")
        code = importlib.import_module("alma_pipeline.execution.worker").main(work, token)
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


def _ended(pid: int, replies: TextIO) -> bool:
    """Report the exit code of a worker that has ended, negative for a signal; what it left behind goes with it."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    replies.write(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}) + "\n")
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
