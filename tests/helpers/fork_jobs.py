"""Runs jobs in forks of a process that has imported the libraries once, so that a test can kill them by the dozen.

One work folder a line on standard input; answers `started <pid>`, then `ended <code>`.
"""

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

from alma_pipeline.job import read_job

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from alma_pipeline.ml.training import step_log  # noqa: E402 - it imports DeepSpeed, which prints a line

step_log.SPARING = 0  # with EVERY_STEP, a resume point follows each step however long the last one took
for name in ("mono", "parallel", "group_adapter"):
    import_module(f"stages.{name}.run")


def run(work: Path) -> int:
    try:
        job = read_job(work / "job.json")
        import_module(f"stages.{job.config.kind}.run").run(job)
        return 0
    except BaseException:
        traceback.print_exc()
        return 1


print("ready", file=ANSWERS)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os._exit(run(Path(line.strip())))
    print("started", pid, file=ANSWERS)
    _, status = os.waitpid(pid, 0)
    print("ended", os.waitstatus_to_exitcode(status), file=ANSWERS)
