"""The random generators of this process, python's, numpy's and torch's: seeded, read and set together."""

import random
from typing import Any

import numpy as np
import torch


def seed(value: int, rank: int) -> None:
    """Start every generator from a seed and a rank; different ranks draw different dropout masks."""
    mixed = int(np.random.SeedSequence([value, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)  # the GPU's too


def states() -> dict[str, Any]:
    """What `restore` needs to go on with the very next number."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def restore(found: dict[str, Any]) -> None:
    """Put back what `states` returned."""
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    torch.set_rng_state(found["torch"])
    if found["cuda"] is not None:
        torch.cuda.set_rng_state(found["cuda"])
