"""A process that imports the training libraries once and forks a worker for each job.

    python alma_pipeline/start.py alma_pipeline.execution.fork_server MODULES...

It writes {"ready": true} after the imports. Then it reads one line per job, {"work": FOLDER, "token": T}, and answers
{"pid": N} at once and {"pid": N, "code": C} when that worker has ended. Several workers may run at a time.

It never uses a device and starts no thread, so that every fork starts clean. When its standard input closes, the parent
is gone: the server kills the running workers and exits. It ignores SIGTERM.
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
KILLED_FIRST = "100"
"""Of 1000: how much sooner the kernel kills a worker for memory than this server, which has as much until a worker grows."""


def main(modules: list[str]) -> None:
    """Import `modules`, then fork a worker for each line on stdin until it closes; then kill the running workers."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # replies keep the pipe; what libraries print on import goes to the log
    for name in modules:
        importlib.import_module(name)
    # Service managers and clusters signal every process at once; workers may then need time for a resume point.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    replies.write(json.dumps({"ready": True}) + "\n")
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    running: list[int] = []
    # Poll for exited workers only while there are any; otherwise sleep until the parent writes.
    while True:
        if select.select([reader], [], [], POLL_SECONDS if running else None)[0]:
            line = reader.readline()
            if not line:
                break
            running.append(_fork(json.loads(line), (replies.fileno(), reader.fileno())))
            replies.write(json.dumps({"pid": running[-1]}) + "\n")
        # Also reaps them: a worker left as a zombie would look alive.
        running = [pid for pid in running if not _ended(pid, replies)]
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(job: dict[str, str], pipes: tuple[int, int]) -> int:
    # Blocked, a SIGTERM for the worker waits until that no longer ignores it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    if not pid:
        for pipe in pipes:  # an open copy would hide the server's end from the parent while a worker runs
            os.close(pipe)
        _work(Path(job["work"]), job["token"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    with contextlib.suppress(ProcessLookupError):
        os.setpgid(pid, pid)  # in the worker as well: whichever runs first, the group exists before it is signalled
    return pid


def _work(work: Path, token: str) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        _redirect(work / "log.txt")
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(KILLED_FIRST, encoding="ascii")
        code = importlib.import_module("alma_pipeline.execution.worker").main(work, token)
    except BaseException:  # a forked child must never return to the server's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    """Send the worker's output to its own log, and close its input."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _ended(pid: int, replies: TextIO) -> bool:
    """Whether a worker has ended; if so, report its exit code (negative: a signal) and kill what is left of its group."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    replies.write(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}) + "\n")
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
