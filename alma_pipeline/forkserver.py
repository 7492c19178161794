"""A process that has imported the training libraries once and forks a worker for each job.

    python -m alma_pipeline.forkserver MODULES...

One line out when they are imported: {"ready": true}. Then one line in for each job, {"work": FOLDER, "token": T}, and two
out: {"pid": N}, {"code": N}.

It never uses a device or starts a thread of its own, so that a fork is a clean start. When its standard input
closes, the parent is gone: the running worker is killed and the server ends.
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
from typing import NoReturn

POLL_SECONDS = 0.02


def main(modules: list[str]) -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print on import belongs in the log
    for name in modules:
        importlib.import_module(name)
    replies.write(json.dumps({"ready": True}) + "\n")
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := reader.readline():
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            os.close(replies.fileno())  # else the parent would not see the server end before its worker does
            os.close(reader.fileno())
            _work(Path(job["work"]), job["token"])
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(pid, pid)  # here as well as in the worker: whoever comes first, a signal to the group finds it
        replies.write(json.dumps({"pid": pid}) + "\n")
        code = _wait(pid, reader.fileno())
        replies.write(json.dumps({"code": code}) + "\n")


def _work(work: Path, token: str) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        _redirect(work / "log.txt")
        code = importlib.import_module("alma_pipeline.worker").main(work, token)
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


def _wait(pid: int, parent: int) -> int:
    """The exit code of the worker, negative for a signal; kills it when the parent goes away.

    Processes that the worker started and left behind go with it.
    """
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        if select.select([parent], [], [], POLL_SECONDS)[0]:
            os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        ended, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(sys.argv[1:])
