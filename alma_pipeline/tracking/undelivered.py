"""Keeps undelivered events in the store until a later invocation delivers them.

<root>/tracking/<time>-<id>.jsonl   first line: store, server, experiment, process and runs; then one event per line

An invocation has such a file, without events, as long as it runs: if it is killed, its runs are ended by a later one.
"""

import json
import logging
import os
import secrets
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alma_pipeline import instants
from alma_pipeline.lease import Lease
from alma_pipeline.redact import redact
from alma_pipeline.tracking.database import own_uri
from alma_pipeline.tracking.outbox import MAX_TRIES, Event, reason
from alma_pipeline.tracking.recorder import Recorder
from alma_pipeline.tracking.repair import close_orphaned_runs, is_alive, process_tags
from alma_pipeline.tracking.server import Server, connect

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A file of events; their paths are those of the store as it is now."""

    path: Path
    uri: str
    """As `public_uri` gives it."""
    experiment: str
    runs: dict[str, str]
    events: list[Event]


def public_uri(uri: str) -> str:
    """An address without user and password, which may be other ones in a later invocation."""
    host = urlsplit(uri).netloc
    return redact(uri.replace(f"//{host}", f"//{host.rpartition('@')[2]}", 1) if "@" in host else uri)


def begin_keeping(root: Path) -> Path:
    """The path of a new invocation's file. Files sort by time."""
    return root / "tracking" / f"{instants.stamp()}-{secrets.token_hex(4)}.jsonl"


def keep(path: Path, root: Path, uri: str, experiment: str, runs: dict[str, str], events: list[Event]) -> None:
    """Write the file of an invocation atomically. Warns if the disk does not take it."""
    header = {"schema": 2, "root": str(root), "uri": public_uri(uri), "experiment": experiment, "runs": runs}
    lines = [header | {"process": process_tags()}, *(event | {"again": True} for event in events)]
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:  # a full disk must not end a run that has its result
        if events:
            log.warning("tracking: %d records for MLflow are lost: %s: %s", len(events), path, error.strerror)


def kept(root: Path) -> list[Kept]:
    """What processes that have ended kept, oldest first. Warns of files that cannot be read."""
    found = []
    for path in (root / "tracking").glob("*.jsonl"):
        try:
            one = _read(path, root)
        except FileNotFoundError:  # delivered meanwhile
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("tracking: %s is damaged (%s), so its records are not delivered; remove it", path, error)
            continue
        found += [one] if one else []
    return sorted(found, key=lambda one: (one.events[0]["time"] if one.events else 0.0, one.path.name))


def waiting_lines(root: Path) -> list[str]:
    """One line per server that records wait for."""
    records, killed = Counter[str](), Counter[str]()
    for one in kept(root):
        records[one.uri] += len(one.events)
        killed[one.uri] += not one.events
    lines = []
    for uri in records:
        parts = [f"{records[uri]} records wait"] if records[uri] else []
        parts += [f"the runs of {killed[uri]} killed invocations are to be ended"] if killed[uri] else []
        lines.append(f"{' and '.join(parts)} for MLflow at {uri}; the next run that reaches it delivers them")
    return lines


def deliver_kept(root: Path, server: Server, uri: str, experiment: str) -> None:
    """Deliver what earlier invocations kept for this server, unless another process is doing so, and end runs of killed ones.

    `server`: that of `experiment`. Raises what MLflow raises if the server becomes unreachable again; the rest is then kept.
    """
    close_orphaned_runs(server)
    if not (root / "tracking").is_dir():
        return
    # One process at a time: two would apply the same events concurrently.
    lease = Lease(root / "tracking" / "lock")
    if not lease.acquire_unless_held():
        return
    try:
        servers = {experiment: server}
        for one in kept(root):
            if one.uri != public_uri(uri):
                continue
            if one.experiment not in servers:
                try:
                    servers[one.experiment] = connect(root, uri, one.experiment)
                    close_orphaned_runs(servers[one.experiment])
                except Exception as error:
                    if not server.reachable():
                        raise
                    log.warning("tracking: %d records of another experiment are kept (%s)", len(one.events), reason(error))
                    continue
            _deliver(Recorder(servers[one.experiment], one.runs, system_metrics=False), one.events)
            one.path.unlink()
    finally:
        lease.release()


def _read(path: Path, root: Path) -> Kept | None:
    """The file's content; None if the process that wrote it still runs, or runs on another machine."""
    header, *events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    process = header.get("process")
    if not events and process and (process["alma.host"] != socket.gethostname() or _lives(process)):
        return None
    uri, old = public_uri(header["uri"]), Path(header.get("root", root))
    # The store may have been moved since, and its own database with it.
    if old != root:
        uri = public_uri(own_uri(root)) if uri == public_uri(own_uri(old)) else uri
        events = [event | {"paths": _moved(event.get("paths", {}), old, root)} for event in events]
    return Kept(path, uri, header["experiment"], header["runs"], events)


def _lives(process: dict[str, str]) -> bool:
    return is_alive(int(process["alma.pid"]), float(process["alma.pid_started"]))


def _moved(paths: Any, old: Path, new: Path) -> Any:
    """Paths (nested in lists and mappings) below the store's old root, below its new one."""
    if isinstance(paths, dict):
        return {name: _moved(child, old, new) for name, child in paths.items()}
    if isinstance(paths, list):
        return [_moved(child, old, new) for child in paths]
    path = Path(paths)
    return str(new / path.relative_to(old)) if path.is_relative_to(old) else paths


def _deliver(recorder: Recorder, events: list[Event]) -> None:
    """Apply each event; one that a reachable server refuses `MAX_TRIES` times is dropped, with a warning."""
    for event in events:
        for attempt in range(MAX_TRIES):
            try:
                recorder.apply(event)
            except Exception as error:
                if not recorder.reachable():
                    raise
                log.debug("tracking: try %d of a kept record failed: %s", attempt, redact(repr(error)))
                if attempt == MAX_TRIES - 1:
                    log.warning("tracking: MLflow refused a kept record (%s: %s); it is dropped", event["do"], reason(error))
                time.sleep(attempt)
            else:
                break
