"""Entries of Hydra's config store that are built only when Hydra takes one: it copies its whole store for every composition."""

from collections.abc import Callable
from typing import Any

from hydra.core.config_store import ConfigNode
from omegaconf import DictConfig


class LateConfig:
    """A configuration that is built when it is copied."""

    def __init__(self, build: Callable[[], DictConfig]) -> None:
        self.build = build

    def __deepcopy__(self, memo: dict[int, Any]) -> DictConfig:
        return self.build()


class LateNode(ConfigNode):
    """Holds a `LateConfig`. It never changes, so the copies that Hydra makes of its store can share it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "LateNode":
        return self


def late_node(group: str | None, name: str, build: Callable[[], DictConfig]) -> LateNode:
    """The entry for option `name` of `group`; None for a file at the top."""
    node: Any = LateConfig(build)
    return LateNode(name=f"{name}.yaml", node=node, group=group, package=None, provider=None)
