"""Why training ends before its last step, to be resumed by another worker: a notice, a signal, or a full device.

Knows nothing of resume points; the loop writes one before it raises `Again`.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from alma_pipeline.job import Again, Job
from alma_pipeline.ml.device_memory import is_full

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM ends a process, also at a preemption under Slurm; SIGUSR1 is what clusters are asked to send before a time limit."""


class Notice:
    """Whether this rank is asked to end: by one of `SIGNALS`, or by the file `notice`, for which rank 0 looks."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.signal = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within this context a signal is noted and ends nothing. Outside the main thread, Python has no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.signal = number

    @property
    def is_given(self) -> bool:
        """Whether this rank has been asked; the others have to be asked too."""
        return bool(self.signal) or (self.job.rank == 0 and self.job.notice.exists())

    def again(self, step: int) -> Again:
        """What to raise once a resume point holds `step`."""
        by = signal.Signals(self.signal).name if self.signal else "a notice"
        return Again(f"interrupted by {by} after step {step}", signal=self.signal)


@contextlib.contextmanager
def full_device_halves_budget(job: Job, longest: int) -> Iterator[None]:
    """Turn an out-of-memory error of the device into `Again` with half the token budget, at least `longest` example.

    Gradients are sums over the global batch, however it is split, so the result is the same up to rounding. An error that
    comes with the smallest budget passes unchanged.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        budget = job.hardware.micro_batch_tokens
        half = max(longest, budget // 2)
        if not is_full(error):
            raise
        if half >= budget:
            error.add_note(f"hardware.micro_batch_tokens={budget} is the longest example and cannot be lowered")
            raise
        print(f"rank {job.rank}: {error}", file=sys.stderr, flush=True)
        raise Again("the device ran out of memory", micro_batch_tokens=half) from error
