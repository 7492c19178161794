"""Waiting for processes and threads, asking whether they live or were left behind, and interrupting this one."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The condition's first true value; fails when it does not come."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return value


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def left_behind(text: str) -> list[int]:
    """Processes that have this text in their environment, as all have that a test started with a folder of its own."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(text in value for value in process.environ().values()):
                found.append(process.pid)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def zombies(pid: int) -> list[psutil.Process]:
    """Descendants of a process that have ended and that nobody has waited for."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if child.is_running() and child.status() == psutil.STATUS_ZOMBIE]


def later(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def interrupt_when(condition: Callable[[], Any], number: int = signal.SIGINT, pause: float = 0.0) -> None:
    """Signal this process from a thread `pause` seconds after the condition has come true."""

    def interrupt() -> None:
        wait_for(condition)
        time.sleep(pause)
        os.kill(os.getpid(), number)

    later(interrupt)
