"""A queue of events that one background thread delivers in order. Knows nothing of MLflow.

Putting an event never waits and never fails. While the receiver is out of reach the events wait, and what has not
been delivered at the end is handed back, so that it can be kept and delivered another day.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from alma_pipeline.redact import redact

Event = dict[str, Any]
"""Plain values: `do` says what happened, `again` that an earlier try may have half succeeded."""

LIMIT = 10_000
"""Waiting metrics events; more are left to metrics.jsonl, which holds them anyway."""
MERGED_LINES = 2_000
TRIES = 3
"""After so many failures while the receiver can be reached, it is the event that is at fault."""
WAITS = (1.0, 5.0, 15.0, 60.0)
"""Seconds between tries; the last one repeats."""

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """What events are delivered to."""

    def apply(self, event: Event) -> None:
        """Deliver one. Raises where it was not taken."""

    def reachable(self) -> bool:
        """Whether it is worth trying."""


class Outbox:
    """`connect` is called in the background thread before the first event, and again until it succeeds."""

    def __init__(self, connect: Callable[[], Receiver], name: str) -> None:
        self._connect = connect
        self._name = name
        self._waiting: deque[Event] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._abandoned = False
        self._told: set[str] = set()
        self._failures = self._refusals = 0
        self.gaps: set[str] = set()
        """Nodes of which metrics were left out because too much was waiting."""

    @property
    def down(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def put(self, event: Event) -> None:
        """Have an event delivered by a thread of its own; metrics are dropped, and the gap remembered, when too many wait."""
        with self._changed:
            if event["do"] == "metrics" and len(self._waiting) >= LIMIT:
                self.gaps.add(event["node"])
                return
            self._waiting.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name="tracking", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until `ready`, at most so long, and not at all while the receiver is out of reach."""
        with self._changed:
            self._changed.wait_for(lambda: ready() or self.down or self._closing, seconds)
            return ready()

    def close(self, seconds: float | None) -> None:
        """Deliver what waits, within a time limit where there is one; then stop. `waiting` has the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            if self._thread:
                self._thread.join(seconds)
        finally:
            self._abandoned = True

    def waiting(self) -> list[Event]:
        """Events not yet delivered."""
        with self._changed:
            return list(self._waiting)

    def _deliver(self) -> None:
        receiver: Receiver | None = None
        while (event := self._head()) is not None:
            try:
                receiver = receiver or self._connect()
                receiver.apply(event)
            except Exception as error:  # a thread's outermost call: told once, and dealt with there
                log.debug("tracking: %s failed: %s", event["do"], redact(repr(error)))
                event["again"] = True
                if not self._after_failure(event, error, receiver):
                    return
            else:
                self._done(event)

    def _head(self) -> Event | None:
        """The next event, consecutive metrics of a node as one; None when all is delivered and nothing will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._abandoned or not self._waiting:
                return None
            head = self._waiting[0]
            while head["do"] == "metrics" and len(self._waiting) > 1 and len(head["lines"]) < MERGED_LINES:
                following = self._waiting[1]
                if following["do"] != "metrics" or following["node"] != head["node"]:
                    break
                head["lines"] = head["lines"] + following["lines"]
                del self._waiting[1]
            return head

    def _done(self, event: Event) -> None:
        with self._changed:
            if not self._abandoned:
                self._waiting.popleft()
            if self._failures:
                log.info("tracking: %s answers again", self._name)
            self._failures = self._refusals = 0
            self._changed.notify_all()

    def _after_failure(self, event: Event, error: Exception, receiver: Receiver | None) -> bool:
        """Wait, or give the event up; whether to go on."""
        reachable = receiver is not None and receiver.reachable()
        with self._changed:
            self._failures += 1
            self._refusals += reachable
            refused = self._refusals >= TRIES
            if refused and not self._abandoned:
                self._waiting.popleft()
                self._failures = self._refusals = 0
            self._changed.notify_all()
        if refused:
            self._tell("refused", f"{self._name} refused {event['do']} ({_reason(error)}); the run goes on without it")
            return True
        if not reachable:
            self._tell("away", f"{self._name} cannot be used ({_reason(error)}); the run goes on and keeps the records")
        return self._pause(reachable)

    def _pause(self, reachable: bool) -> bool:
        """Sit out the time to the next try; the end of the run cuts it short, and after one more try it is the end."""
        with self._changed:
            closing = self._closing
            if not closing:
                self._changed.wait_for(lambda: self._closing, WAITS[min(self._failures, len(WAITS)) - 1])
            return not closing or reachable

    def _tell(self, kind: str, text: str) -> None:
        """One warning of a kind: an outage of hours is no reason for hundreds of lines."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("tracking: %s", text)


def _reason(error: BaseException) -> str:
    """One line: what the operating system said where it is a matter of files or connections, else what MLflow said."""
    root = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    text = str(root if isinstance(root, OSError) else error).strip()
    return redact((text.splitlines() or [type(error).__name__])[0])[:300]
