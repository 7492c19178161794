"""Tells the truth about runs whose process is gone, and about the run above a sweep (B38)."""

import hashlib
import os
import socket

from alma_pipeline.tracking.server import Server

START_TOLERANCE = 5.0
"""Seconds by which two readings of one process's start may differ: the clock is adjusted now and then."""


def process_tags() -> dict[str, str]:
    """Who holds a run open: a process id alone is soon another process's."""
    import psutil

    started = psutil.Process().create_time()
    return {"alma.host": socket.gethostname(), "alma.pid": str(os.getpid()), "alma.pid_started": f"{started:.2f}"}


def is_alive(pid: int, started: float) -> bool:
    """Whether this machine still runs the process of that id and start (seconds since 1970)."""
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < START_TOLERANCE
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def repair(server: Server) -> None:
    """Set every running run of this host whose process is gone to KILLED."""
    for run in server.find(f"attributes.status = 'RUNNING' and tags.`alma.host` = '{socket.gethostname()}'"):
        tags = run.data.tags
        if not is_alive(int(tags["alma.pid"]), float(tags["alma.pid_started"])):
            server.log_tags(run.info.run_id, {"alma.status": "KILLED"})
            server.client.set_terminated(run.info.run_id, "KILLED")
    for run in server.find("attributes.status = 'RUNNING' and tags.`alma.level` = 'sweep'"):
        settle_sweep(server, run.info.run_id)


def sweep_run(server: Server, sweep: str, name: str, time: float) -> str:
    """The one run above a sweep's jobs, made by whichever job comes first."""
    uid = f"sweep-{hashlib.sha256(sweep.encode()).hexdigest()[:16]}"
    with server.lock:
        run_id = server.create(name, uid, {"alma.level": "sweep", "alma.sweep_id": sweep}, time, again=True)
    server.client.update_run(run_id, status="RUNNING")
    return run_id


def settle_sweep(server: Server, run_id: str) -> None:
    """End a sweep's run when none of its jobs runs: FINISHED if all of them are."""
    states = {run.info.status for run in server.find(f"tags.`mlflow.parentRunId` = '{run_id}'")}
    if states & {"RUNNING", "SCHEDULED"}:
        return
    worst = next((state for state in ("FAILED", "KILLED") if state in states), "FINISHED")
    server.client.set_terminated(run_id, worst)
