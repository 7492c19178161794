"""Whether the holder of a lease lives, as seen from any machine: by its lock, or by its heartbeat. Holds nothing itself.

A heartbeat is a file with a count. Whoever watches it compares what it reads now with what it read before, and never its clock
with another machine's.
"""

import functools
import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline import files
from alma_pipeline.mounts import Reach, reach

BEAT_SECONDS = 5.0
"""How often a holder counts."""
STILL_SECONDS = 60.0
"""How long a count must not change until its holder counts as dead: NFS serves attributes up to 60 s old (nfs(5), acregmax),
and a busy file server may take as long for a write."""
LOOK_SECONDS = 0.5
"""Usual time between two looks at a lease."""
BEAT_BYTES = 512
"""Size of a heartbeat. It never grows, so that a full disk takes it too."""


@functools.cache
def machine() -> str:
    """The id of this machine's running kernel: processes with the same one see each other's locks. Else the host's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        return socket.gethostname()


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease or held it."""

    host: str
    pid: int
    machine: str
    token: str
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Watch:
    """Somebody else's lease, looked at again and again: a heartbeat shows nothing at the first look."""

    def __init__(self, path: Path, number: int = 0) -> None:
        """`number`: that of a holder which is known to have lived a moment ago.

        A network file system may list its heartbeat only later. Whether its lock reaches this machine is then seen rather than
        read from the mount table.
        """
        self.path = path
        self._reads_table = number == 0
        self.number = number
        """Of the newest heartbeat at the last look; 0 if there was none."""
        self.holder: Holder | None = None
        """Whose that was; None if it is not known."""
        self.shows_life = False
        """Whether a process certainly held the lease at the last look: by its lock, or since its heartbeat has changed."""
        self._has_changed = False
        self._text: str | None = None
        self._unchanged = 0.0
        self._looked = time.monotonic()
        self._reached = ""
        """Token of a holder on another machine whose lock this machine saw."""

    def is_held(self) -> bool:
        """Look once: whether a process holds the lease. Raises OSError if that cannot be found out.

        Where the lock of another machine has been seen, or the mount table shows that locks reach all machines, a free lock is
        enough. Otherwise the heartbeat of another machine must have stood still for `STILL_SECONDS`.
        """
        held = self._is_held()
        self.shows_life = held and (self.decides_by_lock or self._has_changed)
        return held

    def _is_held(self) -> bool:
        locked = files.is_locked(self.path)
        self._look()
        holder = self.holder
        elsewhere = holder is not None and holder.machine != machine()
        if locked:
            self._reached = holder.token if holder and elsewhere and not holder.released else ""
            return True
        if not self.number or (holder and (holder.released or not elsewhere or holder.token == self._reached)):
            return False
        return not self._reaches_all() and not self.is_still()

    @property
    def decides_by_lock(self) -> bool:
        """Whether a free lock has shown at the last look that the lease is free; otherwise it was the heartbeat."""
        holder = self.holder
        known = holder is not None and (holder.machine == machine() or holder.token == self._reached)
        return known or self.number == 0 or self._reaches_all()

    def is_still(self) -> bool:
        """Whether the newest heartbeat has not changed for `STILL_SECONDS` of looking."""
        return self._unchanged >= STILL_SECONDS

    def _reaches_all(self) -> bool:
        return self._reads_table and reach(self.path.parent) is Reach.ALL

    def _look(self) -> None:
        """Read the newest heartbeat."""
        found = max([self.number, *numbers(self.path)])
        try:
            text = beat_path(self.path, found).read_text(encoding="utf-8", errors="replace") if found else ""
        except FileNotFoundError:  # the next holder has just removed it, which this machine will see
            text = ""
        # Time in which this process slept, or waited for the file server, says nothing about the holder.
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * LOOK_SECONDS), now
        same = (found, text) == (self.number, self._text)
        self._unchanged = self._unchanged + passed if same else 0.0
        self._has_changed = self._has_changed or not (same or self._text is None)
        self.number, self._text, self.holder = found, text, parsed(text)

    def whom(self) -> str:
        """Whom one waits for, in brackets; empty if that is not known."""
        if self.holder is None or self.holder.released:
            return ""
        limit = f"; if it is dead, this continues once its heartbeat has not changed for {STILL_SECONDS:.0f} s"
        return f" ({self.holder}{'' if self.decides_by_lock else limit})"


def held_among(paths: Iterable[Path], waiting: Callable[[str], None]) -> list[Path]:
    """Those of these paths whose lease somebody holds, or where that cannot be found out.

    `waiting(text)` is called once if heartbeats of other machines must be watched for that, which takes `STILL_SECONDS` at most.
    """
    unknown, found, reported = [Watch(path) for path in paths], [], False
    while unknown:
        looked, unknown = unknown, []
        for watch in looked:
            try:
                is_held = watch.is_held()
            except OSError:
                found.append(watch.path)
                continue
            if watch.shows_life:
                found.append(watch.path)
            elif is_held:
                unknown.append(watch)
        if unknown:
            if not reported:
                who = unknown[0].holder or "another process"
                waiting(f"looking for up to {STILL_SECONDS:.0f} s whether {who} still works here")
                reported = True
            time.sleep(LOOK_SECONDS)
    return found


def beat_path(path: Path, number: int) -> Path:
    """Where the n-th holder of the lease on a path counts."""
    return path.with_name(f"{path.name}.beat-{number}")


def numbers(path: Path) -> list[int]:
    """Numbers of the heartbeats that this machine sees."""
    start = f"{path.name}.beat-"
    try:
        return [int(name[len(start) :]) for name in os.listdir(path.parent) if name.startswith(start)]
    except FileNotFoundError:
        return []


def parsed(text: str) -> Holder | None:
    """The holder that a heartbeat names; None while it is being written."""
    try:
        value = json.loads(text)
        value.pop("count")
        return Holder(**value)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
