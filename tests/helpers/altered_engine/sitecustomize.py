"""With this folder on PYTHONPATH training meets what it seldom meets, as the environment says:

STEP_SECONDS    how much longer every step takes, so that a signal or a time limit finds it
DEVICE_TOKENS   a micro-batch with a larger budget fills the device
"""

import importlib.util
import os
import sys
import time
from importlib.machinery import ModuleSpec
from typing import Any

ENGINE = "alma_pipeline.ml.training.engine"


class AlteredEngine:
    """Finds that one module, and changes it once it is loaded: importing it here would load torch into every process."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != ENGINE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec and spec.loader
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            alter(module.Engine)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def alter(engine_class: Any) -> None:
    begin, step = engine_class.__init__, engine_class.step

    def slow_step(engine: Any, learning_rate: float) -> None:
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        step(engine, learning_rate)

    def begin_on_small_device(engine: Any, module: Any, optimizer: Any, config: Any, hardware: Any, ranks: int) -> None:
        begin(engine, module, optimizer, config, hardware, ranks)
        if hardware.micro_batch_tokens > int(os.environ.get("DEVICE_TOKENS", hardware.micro_batch_tokens)):
            engine.backward = fill

    engine_class.step, engine_class.__init__ = slow_step, begin_on_small_device


def fill(loss: Any) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


sys.meta_path.insert(0, AlteredEngine())  # type: ignore[arg-type]
