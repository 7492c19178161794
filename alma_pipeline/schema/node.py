"""What the planner needs of any node; a kind's own settings live in `stages/<kind>/config.py`."""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """What the planner needs of any node. These fields are not part of a node's settings."""

    version: ClassVar[int] = 1
    """Bumped by hand when the kind's meaning changes; part of the key."""
    kind: str = MISSING
    inputs: dict[str, str] = field(default_factory=dict)
    """Role to node name: `{init: mono, corpus: parallel_corpus}`."""
    per_group: bool = False
    """One instance for each language group of the run."""

    @property
    def distributed(self) -> bool:
        """Whether its work is shared out over the hardware's processes."""
        return False

    def roles(self) -> dict[str, str]:
        """The inputs this node really reads."""
        return self.inputs
