"""Signals that end a command: Ctrl-C, SIGTERM, a closed terminal, and those that clusters send before their time limit.

Each raises KeyboardInterrupt in the main thread, so that workers are stopped and resume points kept, whatever the verb.
"""

import os
import signal
import stat

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Besides SIGINT, which Python handles so by itself."""


class Interrupted(KeyboardInterrupt):
    """The command received one of the signals `ENDING`."""

    def __init__(self, number: int) -> None:
        self.number = number


def handle_signals() -> None:
    """Make every signal of `ENDING` interrupt the command, except those that it was started to ignore, as by nohup."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    # A closed terminal and a cluster send several: the next one must not break off the clearing up.
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    _drop_closed_terminal()
    raise Interrupted(number)


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
    """What ended the command, and how to resume it."""
    by = f" by {signal.Signals(error.number).name}" if isinstance(error, Interrupted) else ""
    return f"interrupted{by}; finished work is kept, and the same command resumes from there"
