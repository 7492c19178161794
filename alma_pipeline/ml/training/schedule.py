"""Learning rates, warm-up and evaluation steps as pure functions of the step: a resumed run needs no scheduler state.

The shapes are those of transformers' schedules, including the warm-up from 0.
"""

import math

from alma_pipeline.schema import Training

TIMESCALE = 10_000
"""Steps; the timescale of `inverse_sqrt` without warm-up, as in transformers."""


def warmup_steps(config: Training, total: int) -> int:
    """Steps of the linear warm-up from 0, rounded up as in transformers."""
    return math.ceil(config.warmup_ratio * total)


def learning_rate(config: Training, step: int, total: int) -> float:
    """The learning rate of optimiser step `step`, counted from 0, of `total` steps."""
    return config.learning_rate * factor(config.schedule, step, total, warmup_steps(config, total))


def factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """Share of the peak learning rate at `step`, in [0, 1]. Raises ValueError for an unknown schedule."""
    # The first step has rate 0, as in transformers.
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        # The timescale of the decay is the warm-up itself: after a short warm-up the rate falls fast.
        return math.sqrt((warmup or TIMESCALE) / (step if warmup else step + TIMESCALE))
    remaining = max(0.0, (total - step) / max(1, total - warmup))
    if schedule == "linear":
        return remaining
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (1 - remaining)))
    raise ValueError(f"schedule={schedule}: expected cosine, inverse_sqrt, linear or constant")


def evaluation_steps(total: int, evaluations: int) -> list[int]:
    """Steps after which the dev set is measured: evenly spaced, the last one at the end."""
    return sorted({max(1, round(total * part / evaluations)) for part in range(1, evaluations + 1)})
