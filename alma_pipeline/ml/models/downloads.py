"""A download's bytes as lines of the node's metrics, so that whoever watches the run sees it move. Fetches nothing."""

import threading
import time
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

EVERY = 1.0
"""Seconds between two lines."""
RATE = "download/bytes_per_second"
Log = Callable[[int, int, dict[str, float]], None]
"""`Job.log`."""


class Download:
    """How many bytes are here, told at most once in `EVERY` seconds by whichever thread brings some."""

    def __init__(self, log: Log) -> None:
        self._log, self._lock = log, threading.Lock()
        self._began = self._told = time.monotonic()
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """`total`: bytes of the files begun so far. Bars of one download overlap, so the furthest counts."""
        with self._lock:
            now = time.monotonic()
            if done <= self._done or now - self._told < EVERY:
                return
            self._done, self._told = done, now
            self._log(done, max(done, total), {RATE: done / (now - self._began)})

    def bar(self) -> type[tqdm]:
        """A progress bar for `huggingface_hub`, which tells this download what it is told."""
        report = self

        class Bar(tqdm):  # type: ignore[misc]
            def update(self, n: float | None = 1) -> Any:
                shown = super().update(n)
                if self.unit == "B":  # its other bar counts files
                    report(int(self.n), int(self.total or 0))
                return shown

        return Bar
