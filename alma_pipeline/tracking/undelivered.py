"""Events that could not be delivered, kept in the store until a later invocation delivers them.

<root>/tracking/<time>-<id>.jsonl   first line: where they belong; then one event a line
"""

import json
import logging
import os
import secrets
import time
from pathlib import Path

from filelock import FileLock, Timeout

from alma_pipeline.redact import redact
from alma_pipeline.tracking.outbox import TRIES, Event
from alma_pipeline.tracking.recorder import Recorder
from alma_pipeline.tracking.server import Server

log = logging.getLogger(__name__)


def keep(root: Path, uri: str, experiment: str, runs: dict[str, str], events: list[Event]) -> Path | None:
    """Write what is left over, whole or not at all; None when nothing is."""
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
    log.info("tracking: %d records are kept in %s; the next invocation delivers them", len(events), path)
    return path


def deliver_kept(root: Path, uri: str, experiment: str, server: Server) -> None:
    """Deliver what earlier invocations kept for this server, unless another process is at it.

    Raises what MLflow raises when the server goes away again: the file then stays.
    """
    folder = root / "tracking"
    if not folder.is_dir():
        return
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
    for event in events:
        for attempt in range(TRIES):
            try:
                recorder.apply(event)
            except Exception as error:
                if not recorder.reachable():
                    raise
                log.debug("tracking: try %d of a kept record failed: %s", attempt, redact(repr(error)))
                time.sleep(attempt)
            else:
                break
