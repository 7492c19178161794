"""Seed, save and restore this process's Python, NumPy and PyTorch random generators together."""

import random
from typing import Any

import numpy as np
import torch


def seed(value: int, rank: int) -> None:
    """Seed every generator from a seed and a rank, so that ranks draw different dropout masks."""
    mixed = int(np.random.SeedSequence([value, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)  # also seeds the GPU


def states() -> dict[str, Any]:
    """The generators' states in plain values and tensors, as `restore` takes them."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def restore(found: dict[str, Any]) -> None:
    """Restore the generators to `found`, as returned by `states`: they continue with the very next number."""
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    torch.set_rng_state(found["torch"])
    if found["cuda"] is not None:
        torch.cuda.set_rng_state(found["cuda"])
