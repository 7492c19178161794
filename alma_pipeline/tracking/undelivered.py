"""Keeps undelivered events in the store until a later invocation delivers them.

<root>/tracking/<time>-<id>.jsonl   first line: server, experiment and runs; then one event per line
"""

import json
import logging
import os
import secrets
import time
from pathlib import Path

from filelock import FileLock, Timeout

from alma_pipeline.redact import redact
from alma_pipeline.tracking.outbox import MAX_TRIES, Event
from alma_pipeline.tracking.recorder import Recorder
from alma_pipeline.tracking.server import Server

log = logging.getLogger(__name__)


def keep_undelivered(root: Path, uri: str, experiment: str, runs: dict[str, str], events: list[Event]) -> Path | None:
    """Write the events atomically and return the file's path; None if there are none."""
    if not events:
        return None
    folder = root / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}.jsonl"
    header = {"schema": 1, "uri": redact(uri), "experiment": experiment, "runs": runs}
    lines = [header, *(event | {"again": True} for event in events)]
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, path)
    log.info("tracking: %d undelivered records are kept in %s; the next invocation will deliver them", len(events), path)
    return path


def deliver_undelivered(root: Path, uri: str, experiment: str, server: Server) -> None:
    """Deliver what earlier invocations kept for this server and experiment, unless another process is doing so.

    Raises what MLflow raises if the server becomes unreachable again; the file is then kept.
    """
    folder = root / "tracking"
    if not folder.is_dir():
        return
    # One process at a time: two would apply the same events concurrently.
    try:
        held = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        return
    with held:
        for path in sorted(folder.glob("*.jsonl")):
            header, *events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            if (header["uri"], header["experiment"]) == (redact(uri), experiment):
                _deliver(Recorder(server, header["runs"], system_metrics=False), events)
                path.unlink()


def _deliver(recorder: Recorder, events: list[Event]) -> None:
    """Apply each event; one that a reachable server refuses `MAX_TRIES` times is dropped."""
    for event in events:
        for attempt in range(MAX_TRIES):
            try:
                recorder.apply(event)
            except Exception as error:
                if not recorder.reachable():
                    raise
                log.debug("tracking: try %d of a kept record failed: %s", attempt, redact(repr(error)))
                time.sleep(attempt)
            else:
                break
