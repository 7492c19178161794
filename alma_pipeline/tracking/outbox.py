"""A queue of events that one background thread delivers in order. Independent of MLflow.

Adding an event never blocks and never fails. While the receiver is unreachable events wait; those still undelivered at
the end are returned, so that they can be stored and delivered later.
"""

import logging
import textwrap
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from alma_pipeline.errors import PipelineError
from alma_pipeline.redact import redact

Event = dict[str, Any]
"""Plain values. `do`: the kind of event; `again`: an earlier try may have partly succeeded."""

MAX_WAITING = 10_000
"""Maximum number of waiting events; metrics beyond it are dropped, as metrics.jsonl holds them anyway."""
MAX_MERGED_LINES = 2_000
"""Metrics lines from which on no further event is merged into one delivery."""
MAX_TRIES = 3
"""After this many failures while the receiver is reachable, the event itself is at fault and is dropped."""
MAX_REASON = 300
"""Characters of a receiver's own error message in a warning."""
RETRY_DELAYS = (1.0, 5.0, 15.0, 60.0)
"""Seconds between tries; the last one repeats."""

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Where events are delivered."""

    def apply(self, event: Event) -> None:
        """Deliver one event. Raises any exception if that failed."""

    def reachable(self) -> bool:
        """Whether the receiver answers now."""


class Outbox:
    """Queues events and delivers them; `connect` is called in the background thread, and again until it succeeds."""

    def __init__(self, connect: Callable[[], Receiver], name: str) -> None:
        self._connect = connect
        self._name = name
        self._waiting: deque[Event] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._abandoned = False
        self._warned: set[str] = set()
        self._failures = self._refusals = 0
        self.gaps: set[str] = set()
        """Nodes whose metrics were dropped because too many events were waiting."""

    @property
    def down(self) -> bool:
        """Whether the last try to deliver failed."""
        return self._failures > 0

    def put(self, event: Event) -> None:
        """Queue an event. Metrics are dropped if too many events wait; `gaps` then has their node."""
        with self._changed:
            if event["do"] == "metrics" and len(self._waiting) >= MAX_WAITING:
                self.gaps.add(event["node"])
                return
            self._waiting.append(event)
            # Start the thread with the first event: an invocation that tracks nothing has none.
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name="tracking", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until `ready()`, at most `seconds`, and not while the receiver is down; returns `ready()`."""
        with self._changed:
            self._changed.wait_for(lambda: ready() or self.down or self._closing, seconds)
            return ready()

    def close(self, seconds: float | None) -> None:
        """Deliver waiting events for at most `seconds` (None: until done), then stop; `waiting` gives the rest."""
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
        """The background thread: deliver until the queue is closed and empty, or given up."""
        receiver: Receiver | None = None
        while (event := self._head()) is not None:
            try:
                receiver = receiver or self._connect()
                receiver.apply(event)
            except Exception as error:  # the thread's outermost call: nothing may escape; it warns once
                log.debug("tracking: %s failed: %s", event["do"], redact(repr(error)))
                event["again"] = True
                if not self._after_failure(event, error, receiver):
                    return
            else:
                self._done(event)

    def _head(self) -> Event | None:
        """The next event, with a node's consecutive metrics merged into one; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._abandoned or not self._waiting:
                return None
            head = self._waiting[0]  # stays in the queue until it is delivered
            while head["do"] == "metrics" and len(self._waiting) > 1 and len(head["lines"]) < MAX_MERGED_LINES:
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
                log.info("tracking: %s is reachable again", self._name)
            self._failures = self._refusals = 0
            self._changed.notify_all()

    def _after_failure(self, event: Event, error: Exception, receiver: Receiver | None) -> bool:
        """Wait before the next try, or drop the event; whether to continue."""
        # An outage is waited out; only a reachable receiver can be refusing this very event.
        reachable = receiver is not None and receiver.reachable()
        with self._changed:
            self._failures += 1
            self._refusals += reachable
            refused = self._refusals >= MAX_TRIES
            if refused and not self._abandoned:
                self._waiting.popleft()
                self._failures = self._refusals = 0
            self._changed.notify_all()
        if refused:
            self._warn_once("refused", f"{self._name} refused {event['do']} ({reason(error)}); the run continues without it")
            return True
        if not reachable:
            self._warn_once("away", f"{self._name} is unavailable ({reason(error)}); the run continues and keeps the records")
        return self._pause(reachable)

    def _pause(self, reachable: bool) -> bool:
        """Wait for the next try; `close` cuts the wait short. Whether to try again: once closing, only if it is reachable."""
        with self._changed:
            closing = self._closing
            if not closing:
                self._changed.wait_for(lambda: self._closing, RETRY_DELAYS[min(self._failures, len(RETRY_DELAYS)) - 1])
            return not closing or reachable

    def _warn_once(self, kind: str, text: str) -> None:
        """Log one warning of each kind, so that an outage of hours does not fill the log."""
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("tracking: %s", text)


def reason(error: BaseException) -> str:
    """One redacted line: the operating system's message if that is the root cause, else the error's own first line.

    It is cut after a word; our own errors, which end with what to do, are not cut.
    """
    root = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    text = str(root if isinstance(root, OSError) else error).strip()
    line = redact((text.splitlines() or [type(error).__name__])[0])
    return line if isinstance(error, PipelineError) else textwrap.shorten(line, MAX_REASON, placeholder=" …")
