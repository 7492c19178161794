"""The right to write something, held by one process at a time among all machines that share a disk.

A file lock decides among the processes of one machine, and among machines where the file system takes locks to all of them. Where
it does not, a heartbeat decides: the holder counts upwards in a file, and another machine takes over only after the count has not
changed for a while. Clocks are never compared.

<path>            the file lock; the kernel releases it when its holder dies
<path>.beat-<n>   the n-th holder, and its count; marked when that holder has let go. Only one process can create a number
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import Timeout

from alma_pipeline import disk, files, heartbeat
from alma_pipeline.errors import UserError
from alma_pipeline.heartbeat import BEAT_BYTES, Holder, Watch, beat_path, parsed

POLL_SECONDS = 0.1


class Lease:
    """The lease on a path. Nothing is held until `acquire` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder = Holder(socket.gethostname(), os.getpid(), heartbeat.machine(), secrets.token_hex(8))
        """This process, as others read it."""
        self._lock = files.lock_file(path)
        self.number = 0
        """Of its heartbeat."""
        self._count = 0
        self._released = threading.Event()
        self._writing = threading.Lock()

    def acquire(self, waiting: Callable[[str], None]) -> None:
        """Acquire the lease, after any other process that holds it.

        `waiting(text)` is called once if that takes time, with the holder in brackets if it is known; it may raise to give up.
        Raises UserError if the file system has no locks.
        """
        watch = Watch(self.path)
        _wait(lambda: self._attempt(watch), watch, waiting)

    def acquire_unless_held(self) -> bool:
        """Acquire the lease and return True; False if another process holds it.

        Takes `heartbeat.STILL_SECONDS` where a process died that only its heartbeat shows. Raises UserError as `acquire`.
        """
        watch = Watch(self.path)
        while not self._attempt(watch):
            if watch.shows_life:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _attempt(self, watch: Watch) -> bool:
        try:
            if watch.is_held() or not self._claim(watch.number + 1):
                return False
        except OSError as error:
            if disk.is_full(error):
                raise
            advice = "set ALMA_PIPELINE_STORE to a folder on a file system with file locks"
            raise UserError(f"{self.path} cannot be locked ({error}); {advice}") from error
        threading.Thread(target=self._keep_beating, daemon=True).start()
        return True

    def release(self) -> None:
        """Let go of the lease, if it is held and no other machine has taken it over meanwhile."""
        self._released.set()
        with self._writing:
            if not self._lock.is_locked:
                return
            with contextlib.suppress(OSError):
                self._write(Holder(**asdict(self.holder) | {"released": True}))
            self._lock.release()

    def _claim(self, number: int) -> bool:
        """Take the lock and create the heartbeat of this number; False if another process was faster."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        created = False
        try:
            created = self._create_beat(number)
        finally:
            if not created:
                self._lock.release()
        return created

    def _create_beat(self, number: int) -> bool:
        self.number = number
        try:
            # One process wins, on any machine: NFS 3 and later, Lustre and BeeGFS create exclusively on the server.
            handle = os.open(beat_path(self.path, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(handle, self._line(self.holder))
        finally:
            os.close(handle)
        # The list that this number came from may have been out of date. This one is not: this machine has changed the folder.
        numbers = heartbeat.numbers(self.path)
        if max(numbers, default=number) > number:
            beat_path(self.path, number).unlink(missing_ok=True)
            return False
        for older in numbers:
            if older < number:
                with contextlib.suppress(OSError):
                    beat_path(self.path, older).unlink()
        return True

    def _keep_beating(self) -> None:
        while not self._released.wait(heartbeat.BEAT_SECONDS):
            with self._writing:
                try:
                    if self._released.is_set() or not self._write(self.holder):
                        return
                except FileNotFoundError:
                    return  # taken over, or the folder is gone
                except OSError:
                    continue  # the file server may come back

    def _write(self, holder: Holder) -> bool:
        """Count once more, or mark the lease as free; False if the heartbeat is no longer this process's."""
        handle = os.open(beat_path(self.path, self.number), os.O_RDWR)
        try:
            found = parsed(os.read(handle, BEAT_BYTES).decode("utf-8", "replace"))
            if found and found.token != self.holder.token:
                return False
            self._count += 1
            os.pwrite(handle, self._line(holder), 0)
        finally:
            os.close(handle)  # network file systems show others the new content once it is closed
        return True

    def _line(self, holder: Holder) -> bytes:
        return json.dumps(asdict(holder) | {"count": self._count}).encode().ljust(BEAT_BYTES - 1) + b"\n"


def wait_until_free(path: Path, waiting: Callable[[str], None]) -> None:
    """Wait until nobody holds the lease on a path; `waiting` as for `Lease.acquire`."""
    watch = Watch(path)
    _wait(lambda: not watch.is_held(), watch, waiting)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lease on a path during a `with` block, after any other process that holds it."""
    lease = Lease(path)
    lease.acquire(lambda text: None)
    try:
        yield
    finally:
        lease.release()


def _wait(done: Callable[[], bool], watch: Watch, waiting: Callable[[str], None]) -> None:
    reported = False
    while not done():
        if not reported:
            waiting(watch.whom())
            reported = True
        time.sleep(POLL_SECONDS)
