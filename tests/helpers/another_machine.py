"""A process on another machine: its host has a name of its own, its kernel another id, and its locks may be its own.

    python -m helpers.another_machine HOST LOCKS CLOCK ACTION WORDS...

LOCKS: a folder in which it takes its locks, as on a file system whose locks are local to a machine; "shared": the usual places.
CLOCK: seconds by which its clock is ahead. Heartbeats are faster than in use, and last `STILL` seconds.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock

from alma_pipeline import files, heartbeat
from alma_pipeline.lease import Lease
from alma_pipeline.mounts import Reach
from helpers import PYTHONPATH

BEAT, STILL = 0.2, 2.5


def start(host: str, locks: "Path | str", action: str, *words: str, clock: float = 0.0, rank: int = 0) -> "subprocess.Popen[str]":
    """Start `worker WORK TOKEN`, `begin STORE NAME KEY` or `hold PATH` there; its output has its errors too."""
    command = [sys.executable, "-m", "helpers.another_machine", host, str(locks), str(clock), action, *words]
    environment = {**os.environ, "RANK": str(rank)}
    environment.setdefault("PYTHONPATH", PYTHONPATH)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def become(host: str, locks: str, clock: float) -> None:
    """Make this process one on another machine."""
    now, lock_file, is_locked = time.time, files.lock_file, files.is_locked

    def own_lock(path: str | Path) -> FileLock:
        Path(path).touch()  # all machines see the file, but not who has locked it
        return lock_file(Path(locks) / Path(path).name)

    stand_ins = [
        (time, "time", lambda: now() + clock),
        (socket, "gethostname", lambda: host),
        (heartbeat, "machine", lambda: f"kernel of {host}"),
        (heartbeat, "BEAT_SECONDS", BEAT),
        (heartbeat, "STILL_SECONDS", STILL),
        (heartbeat, "reach", lambda folder: Reach.UNKNOWN),  # so that it must find out
    ]
    if locks != "shared":
        stand_ins += [
            (files, "lock_file", own_lock),
            (files, "is_locked", lambda path: is_locked(Path(locks) / Path(path).name)),
        ]
    for module, name, stand_in in stand_ins:
        setattr(module, name, stand_in)


def _begin(root: str, name: str, key: str) -> None:
    """Begin a work folder, report what is waited for, and hold it until a line comes; at "commit", commit it."""
    from alma_pipeline.store.store import Store

    work = Store(Path(root)).begin(name, key, lambda text: print("waits", text, flush=True))
    print("has", json.dumps({"token": work.token}), flush=True)
    try:
        if sys.stdin.readline() == "commit\n":
            work.revoke()
            Store(Path(root)).commit(work, {})
    finally:
        work.close()


def _hold(path: str) -> None:
    held = Lease(Path(path))
    held.acquire(lambda text: print("waits", text, flush=True))
    print("has", flush=True)
    sys.stdin.readline()
    held.release()


def main() -> None:
    """Do what the command line says."""
    host, locks, clock, action, *words = sys.argv[1:]
    become(host, locks, float(clock))
    if action == "worker":
        from alma_pipeline.execution.worker import main as work

        os._exit(work(Path(words[0]), words[1]))
    elif action == "begin":
        _begin(*words)
    else:
        _hold(*words)


if __name__ == "__main__":
    main()
