"""How many steps a training node takes, and at which learning rate: pure functions, so that a resumed run needs no
scheduler state. The shapes are those of transformers' schedules, warm-up from 0 included."""

import math

from alma_pipeline.schema import Training

TIMESCALE = 10_000
"""Of `inverse_sqrt` without warm-up, as in transformers."""


def warmup_steps(config: Training, total: int) -> int:
    """Steps of the linear rise from 0, rounded up as transformers does."""
    return math.ceil(config.warmup_ratio * total)


def learning_rate(config: Training, step: int, total: int) -> float:
    """The rate of optimiser step `step`, counted from 0, out of `total`."""
    return config.learning_rate * factor(config.schedule, step, total, warmup_steps(config, total))


def factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """Share of the peak rate at `step`, in [0, 1]."""
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        # The decay's unit is the warm-up itself: after a short one the rate falls fast.
        return math.sqrt((warmup or TIMESCALE) / (step if warmup else step + TIMESCALE))
    remaining = max(0.0, (total - step) / max(1, total - warmup))
    if schedule == "linear":
        return remaining
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (1 - remaining)))
    raise ValueError(f"schedule={schedule}: expected cosine, inverse_sqrt, linear or constant")


def evaluation_steps(total: int, evaluations: int) -> list[int]:
    """Numbers of finished steps after which the dev set is measured: evenly spread, the last one being the end."""
    return sorted({max(1, round(total * part / evaluations)) for part in range(1, evaluations + 1)})
