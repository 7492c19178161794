"""The error of a worker that ended without a result: what it reported, and whether memory or disk ran out."""

import json
import re
from pathlib import Path

from alma_pipeline import disk
from alma_pipeline.errors import PipelineError, StageFailed, UserError
from alma_pipeline.execution import out_of_memory
from alma_pipeline.execution.guard import ABANDONED, EXIT_ABANDONED
from alma_pipeline.job import Job
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.redact import redact
from alma_pipeline.units import size

TAIL_LINES = 20
"""Log lines that an error shows."""
KILLED = (-9, 128 + 9)
"""Exit codes of a process that SIGKILL ended; a launcher reports a rank's in its log instead."""
RANK_KILLED = re.compile(r"\(SIGKILL\)|return code = -9")
"""How torchrun and the DeepSpeed launcher write it."""
RESUMES = "the same command resumes from the last resume point"


def worker_error(job: Job, code: int, killed_before: int, estimate: Estimate | None = None) -> PipelineError:
    """The error of a worker that exited with `code`: the UserError it reported, else StageFailed with the tail of its log.

    `killed_before`: `out_of_memory.kill_count()` when it started.
    """
    work = Path(job.work)
    error = work / "error.json"
    if error.exists() and error.stat().st_size:
        return UserError(f"{job.name}: {json.loads(error.read_text(encoding='utf-8'))['message']}")
    # The traceback of the rank that failed first explains more than the log, which ends with the launcher's own messages.
    log = work / "log.txt"
    written = [path for path in work.glob("failed-*.txt") if path.stat().st_size]
    shown = min(written, key=lambda path: path.stat().st_mtime) if written else log
    lines = redact(shown.read_text(encoding="utf-8", errors="replace")).splitlines() if shown.exists() else []
    tail = "\n".join(lines[-TAIL_LINES:])
    killed = code in KILLED or (not written and bool(RANK_KILLED.search(tail)))
    reason = (
        _abandoned(code, tail)
        or _full_disk(work, tail, estimate)
        or _out_of_memory(job, killed, bool(written), killed_before, tail, estimate)
        or f"its worker ended with {_ending(code)}"
    )
    return StageFailed(job.name, reason, str(log), tail)


def _abandoned(code: int, tail: str) -> str:
    """The reason if the worker ended because its parent seemed to be gone, or because another process has its job; else empty."""
    line = ABANDONED.search(tail)
    if not line and code != EXIT_ABANDONED:
        return ""
    found = f": {line[1]}" if line else ""
    return f"its worker ended because nobody seemed to wait for it{found}; was this command suspended? {RESUMES}"


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}" if code else "exit code 0 but left no result"


def _full_disk(work: Path, tail: str, estimate: Estimate | None) -> str:
    """The reason if a disk is full; else empty. A worker names the folder itself where it still can."""
    store = work.parent.parent
    if not disk.FULL.search(tail) and disk.free_bytes(store) >= disk.NOTHING_BYTES:
        return ""
    named = re.search(r"^no space left on .*$", tail, re.MULTILINE)
    text = named[0] if named else disk.no_space(disk.fullest(store))
    needed = estimate.disk_bytes + estimate.work_bytes if estimate else 0
    need = f", and this node needs about {size(needed)} in all" if needed else ""
    return f"{text}{need}; free some (`alma-pipeline gc` lists what the store can spare), then {RESUMES}"


def _out_of_memory(job: Job, killed: bool, has_traceback: bool, killed_before: int, tail: str, estimate: Estimate | None) -> str:
    """The reason if memory ran out, or may have; else empty."""
    by_kernel = out_of_memory.kill_count() > killed_before
    noticed = out_of_memory.IN_PROCESS.search(tail.rpartition("Traceback")[2])
    if not (killed or by_kernel or noticed):
        return ""
    # What happened.
    if by_kernel and (killed or not has_traceback):
        text = "the kernel killed its worker because memory ran out (its count of out-of-memory kills rose)"
    elif killed:
        text = "its worker was killed (signal 9) by neither this command nor the kernel's count: most likely for memory, by this "
        text += "machine's or its cluster's limit"
    elif noticed:
        text = "memory ran out"
    else:  # the count may be the whole machine's, and the process of somebody else
        text = "its worker failed, and meanwhile the kernel killed a process because memory ran out"
    # What was expected, and what helps.
    of = "device" if job.hardware.device != "cpu" else "process"
    need = f"the plan estimated {size(estimate.memory_bytes)} per {of}; " if estimate and estimate.memory_bytes else ""
    settings = " or ".join(out_of_memory.lower_settings(job.config, job.hardware))
    lower = f"; {settings} lowers the need and changes no result" if settings else ""
    return f"{text}; {need}{size(out_of_memory.available_bytes())} of memory here{lower}; {RESUMES}"
