"""With this folder on PYTHONPATH every training step takes a second more, so that it can be met by a signal or a time limit."""

import importlib.util
import sys
import time
from importlib.machinery import ModuleSpec
from typing import Any

ENGINE = "alma_pipeline.ml.training.engine"


class SlowEngine:
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
            step = module.Engine.step

            def slow(engine: Any, learning_rate: float) -> None:
                time.sleep(1)
                step(engine, learning_rate)

            module.Engine.step = slow

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, SlowEngine())  # type: ignore[arg-type]
