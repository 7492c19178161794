"""The device's memory: whether an error means that it is full, and freeing it. Decides nothing about what is then done."""

import gc
import re

import torch

FULL = re.compile(r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
"""How CUDA and cuBLAS report a full device besides torch.OutOfMemoryError: a RuntimeError with these words."""


def is_full(error: RuntimeError) -> bool:
    """Whether the error means that the device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or FULL.search(str(error)) is not None


def free_device_memory() -> None:
    """Free the memory of deleted models, so that another process can use the device."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing if CUDA was not used
