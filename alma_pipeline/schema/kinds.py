"""Finds the stage kinds, which are the folders of `stages/`, and loads their settings. Does not import `run` modules."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alma_pipeline.errors import UserError
from alma_pipeline.paths import ROOT
from alma_pipeline.schema import NodeConfig


def kind_config(kind: str) -> type[NodeConfig]:
    """The settings dataclass of a kind, imported by name."""
    config: type[NodeConfig] = importlib.import_module(f"stages.{kind}.config").Config
    return config


def thaw(node: Any) -> Any:
    """Make a node of frozen dataclasses writable, recursively: OmegaConf marks each one read-only."""
    OmegaConf.set_readonly(node, None)
    keys = range(len(node)) if OmegaConf.is_list(node) else list(node.keys())
    for key in keys:
        child = node._get_node(key)
        if OmegaConf.is_config(child) and not child._is_none() and not child._is_missing():
            thaw(child)
    return node


def kinds() -> list[str]:
    """The names of all stage kinds, sorted. Raises UserError if another package named `stages` hides this project's."""
    import stages  # only to find its folder: kinds are loaded by name

    found = Path(next(iter(stages.__path__))).resolve()
    if found != ROOT / "stages":
        raise UserError(
            f"another package named 'stages' hides this project's: found {found}, expected {ROOT / 'stages'}; "
            "run from a folder without it, or use the command alma-pipeline in place of python -m"
        )
    return sorted(module.name for module in pkgutil.iter_modules([str(found)]) if module.ispkg)
