"""Corrects the status of runs whose process is gone, and of a sweep's parent run (B38)."""

import hashlib
import os
import socket

from alma_pipeline.tracking.server import PARENT_TAG, Server

START_TOLERANCE = 5.0
"""Seconds by which two readings of a process's start time may differ, since the clock may be adjusted."""


def process_tags() -> dict[str, str]:
    """Tags of the process that owns a run; its start time is included because process ids are reused."""
    import psutil

    started = psutil.Process().create_time()
    return {"alma.host": socket.gethostname(), "alma.pid": str(os.getpid()), "alma.pid_started": f"{started:.2f}"}


def is_alive(pid: int, started: float) -> bool:
    """Whether the process with this id and start time (seconds since 1970) still runs on this machine."""
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < START_TOLERANCE
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def close_orphaned_runs(server: Server) -> None:
    """Set this host's runs that are RUNNING without a process to KILLED, and settle running sweeps."""
    for run in server.find(f"attributes.status = 'RUNNING' and tags.`alma.host` = '{socket.gethostname()}'"):
        tags = run.data.tags
        if not is_alive(int(tags["alma.pid"]), float(tags["alma.pid_started"])):
            server.log_tags(run.info.run_id, {"alma.status": "KILLED"})
            server.client.set_terminated(run.info.run_id, "KILLED")
    for run in server.find("attributes.status = 'RUNNING' and tags.`alma.level` = 'sweep'"):
        end_finished_sweep(server, run.info.run_id)


def sweep_run(server: Server, sweep: str, name: str, time: float) -> str:
    """The id of a sweep's parent run, created by whichever job comes first."""
    uid = f"sweep-{hashlib.sha256(sweep.encode()).hexdigest()[:16]}"
    with server.lock:  # jobs of a sweep may run at the same time
        run_id = server.create(name, uid, {"alma.level": "sweep", "alma.sweep_id": sweep}, time, again=True)
    server.client.update_run(run_id, status="RUNNING")
    return run_id


def end_finished_sweep(server: Server, run_id: str) -> None:
    """End a sweep's parent run if none of its jobs runs: FAILED or KILLED if any job is, else FINISHED."""
    states = {run.info.status for run in server.find(f"tags.`{PARENT_TAG}` = '{run_id}'")}
    if states & {"RUNNING", "SCHEDULED"}:
        return
    worst = next((state for state in ("FAILED", "KILLED") if state in states), "FINISHED")
    server.client.set_terminated(run_id, worst)
