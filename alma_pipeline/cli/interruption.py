"""Signals that end a command: Ctrl-C, SIGTERM, a closed terminal, and those that clusters send before their time limit.

Each raises KeyboardInterrupt in the main thread, so that workers are stopped and resume points kept, whatever the verb.
"""

import os
import signal
import stat
import subprocess
import time

from alma_pipeline.errors import Interrupted

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Besides SIGINT, which Python handles so by itself."""
ONE_SIGNAL_SECONDS = 1.0
"""A SIGTERM that follows sooner is the same one: `timeout` signals its command and then its group."""


def handle_signals() -> None:
    """Make every signal of `ENDING` interrupt the command, except those that it was started to ignore, as by nohup."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    interrupted, began = Interrupted(number), time.monotonic()

    def hurry(number: int, frame: object) -> None:
        interrupted.hurried = interrupted.hurried or time.monotonic() - began > ONE_SIGNAL_SECONDS

    # A closed terminal and a cluster send several: the next one must not break off the clearing up, and SIGTERM only hurries it.
    for other in ENDING:
        signal.signal(other, hurry if other == signal.SIGTERM else signal.SIG_IGN)
    _drop_closed_terminal()
    raise interrupted


def _drop_closed_terminal() -> None:
    """Send output nowhere if its terminal is gone: each write there is an error, also in whatever clears up."""
    for handle in (1, 2):
        try:
            gone = stat.S_ISCHR(os.fstat(handle).st_mode) and not os.isatty(handle)
        except OSError:  # closed from the start
            gone = True
        if gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), handle)


def exit_code(error: KeyboardInterrupt) -> int:
    """What a shell reports for a program that a signal ended: 128 and the signal's number."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def message(error: KeyboardInterrupt) -> str:
    """What ended the command, what each running node left, and how to resume it."""
    by = f" by {signal.Signals(error.number).name}" if isinstance(error, Interrupted) else ""
    left = "".join(f"; {text}" for text in error.left) if isinstance(error, Interrupted) else ""
    return f"interrupted{by}{left}; finished work is kept, and the same command resumes from there"


def requeue(error: KeyboardInterrupt) -> str:
    """Queue the Slurm job again that this command is (`exec` in a batch script, or srun) if SIGUSR1 came; returns a line on that.

    Another program of the script is not ours to repeat: where a shell is in between, it decides for itself.
    """
    job, is_task = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_TASK_PID") == str(os.getpid())
    if not job or not is_task or not isinstance(error, Interrupted) or error.number != signal.SIGUSR1:
        return ""
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as failed:
        found = getattr(failed, "stderr", "") or str(failed)
        return f"`scontrol requeue {job}` failed: {found.strip()}; submit the job with --requeue, and have scontrol on its PATH"
    return f"Slurm job {job} is queued again"
