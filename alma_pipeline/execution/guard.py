"""Ends a rank whose parent is gone, and keeps two workers out of one work folder. Independent of what the worker does."""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from alma_pipeline import heartbeat
from alma_pipeline.heartbeat import Watch
from alma_pipeline.lease import Lease

EXIT_ABANDONED = 3
WATCH_SECONDS = 0.5
PRINT_SECONDS = 5.0
"""How long a last line may take: nobody may read the other end of a launcher's pipe any more."""
ABANDONED = re.compile(r"^worker process \d+ on \S+ \(rank \d+\) ends: (.*)$", re.MULTILINE)
"""The last line of a worker that nobody waits for."""


class Guard:
    """Ends this process when its parent is gone, and for rank 0 holds the worker's lease until `release`.

    The parent holds the lease on the owner lock. Once it does not, or `owner.json` has another token, nobody will read this
    worker's result, and another worker may be waiting for the folder. The token also stops a worker whose parent was killed
    while the worker was still importing, so that it does not run the new owner's job.
    """

    def __init__(self, work: Path, token: str, rank: int) -> None:
        """Return once no other worker has the folder; the process ends instead if the token is not the owner's."""
        self.work, self.token, self.rank = work, token, rank
        self._lease: Lease | None = None
        self._ending = threading.Lock()
        owner = _owner(work)
        self._parent = f"process {owner['pid']} on {owner['host']}"
        self._watch = Watch(Path(owner["owner_lock"]), owner["beat"])
        # Before the work: only while the parent lives does its lock show whether locks reach this machine.
        with contextlib.suppress(OSError):  # as in the thread
            self._check()
        threading.Thread(target=self._run, daemon=True).start()
        if rank == 0:
            lease = Lease(Path(owner["worker_lock"]))
            lease.acquire(lambda whom: _print(f"waiting for a worker of an earlier run to exit{whom}\n"))
            self._lease = lease
            self._end_if_replaced()  # again: the owner may have changed while this worker waited

    def release(self) -> None:
        """Let another worker have the folder."""
        if self._lease:
            self._lease.release()

    def _run(self) -> None:
        """End the process as soon as the token is invalid or nobody holds the owner lock."""
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                self._check()
            except FileNotFoundError:
                return  # the parent has committed the artifact and deleted the folder
            except (OSError, ValueError):
                continue  # a file server that does not answer says nothing about the parent

    def _check(self) -> None:
        self._end_if_replaced()
        if not self._watch.is_held():
            self._end(self._loss(), failed=self.work / f"failed-{self.rank}.txt")

    def _end_if_replaced(self) -> None:
        """End the process if the token is no longer the owner's. Raises FileNotFoundError if the folder is gone."""
        owner = _owner(self.work)
        if owner["token"] == "":
            self._end(f"its parent, {self._parent}, has stopped it")
        if owner["token"] != self.token:
            self._end(f"process {owner['pid']} on {owner['host']} owns this job now, and no longer the one that started it")

    def _loss(self) -> str:
        """How it shows that the parent is gone."""
        who, watch = f"its parent, {self._parent}, is gone", self._watch
        if watch.decides_by_lock:
            return f"{who}: the lock {watch.path} is free"
        found = f"has not changed for {heartbeat.STILL_SECONDS:.0f} s" if watch.is_still() else "has ended"
        return f"{who}: its heartbeat {watch.path}.beat-{watch.number} {found}"

    def _end(self, reason: str, failed: Path | None = None) -> NoReturn:
        """End the process, after a line in the log with the reason; also in the file `failed`, where a parent looks for it."""
        self._ending.acquire()  # the main thread and the guard's may both come here; the second waits for the end
        line = f"worker process {os.getpid()} on {socket.gethostname()} (rank {self.rank}) ends: {reason}\n"
        with contextlib.suppress(OSError):
            if failed:
                failed.write_text(line, encoding="utf-8")
        log = self.work / "log.txt"
        # A launcher that died with the parent no longer passes on what its ranks print.
        with contextlib.suppress(OSError):
            if not (log.exists() and os.path.samestat(os.fstat(2), log.stat())):
                with open(log, "a", encoding="utf-8") as file:
                    file.write(line)
        printing = threading.Thread(target=_print, args=(line,), daemon=True)
        printing.start()
        printing.join(PRINT_SECONDS)
        # As late as possible: from here on another worker may write.
        self.release()
        os._exit(EXIT_ABANDONED)


def wait_for_first(work: Path) -> None:
    """Wait until rank 0 has ended, which may score for hours alone: torchrun ends it 300 s after the other ranks.

    A rank 0 that was killed leaves no file, but nobody holds its lease. DeepSpeed's launcher ends no ranks of other machines.
    """
    with contextlib.suppress(FileNotFoundError):  # the parent has committed the artifact
        first, held = Watch(Path(_owner(work)["worker_lock"])), False
        while (work / "owner.json").exists() and not _has_ended(work):
            holds = first.is_held()
            if held and not holds:
                return
            held = held or holds  # at first it may not have the lease yet
            time.sleep(WATCH_SECONDS)


def _has_ended(work: Path) -> bool:
    """Whether rank 0 has written its last file."""
    return any((work / name).exists() for name in ("result.json", "error.json", "again-0.json", "failed-0.txt"))


def _owner(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "owner.json").read_text(encoding="utf-8"))
    return found


def _print(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, end="", file=sys.stderr, flush=True)
