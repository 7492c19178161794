"""What the planner needs of any node. A kind's own settings live in `stages/<kind>/config.py`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from alma_pipeline.schema.data import Source


@dataclass(frozen=True)
class TextInput:
    """Text that a node reads, and what that text must contain."""

    source: Source
    parts: list[str]
    """Languages (`de`) for monolingual text, directions (`de-en`) for sentence pairs."""
    reversible: bool = True
    """Whether a pair serves both directions; a preference has one."""


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Fields that every node has; they are not part of its settings. The planner asks a kind through the methods."""

    version: ClassVar[int] = 1
    """Increase it by hand when the kind's meaning changes; part of the key."""
    kind: str = MISSING
    inputs: dict[str, str] = field(default_factory=dict)
    """Role to node name: `{init: mono, corpus: parallel_corpus}`."""
    per_group: bool = False
    """One instance for each language group of the run."""

    @property
    def distributed(self) -> bool:
        """Whether all processes of the hardware share the node's work."""
        return False

    @property
    def saves_on_notice(self) -> bool:
        """Whether its worker, given notice (see `job`), writes a resume point before it ends."""
        return False

    def roles(self) -> dict[str, str]:
        """The inputs that this node reads with its present settings."""
        return self.inputs

    def rules(self) -> dict[str, int]:
        """Versions of rules whose meaning has changed, by name, where this node's settings put them to use; part of the key.

        A changed rule gives a new key to the nodes that it concerns, and to no other: `version` would change all of a kind.
        """
        return {name: version for text in self.text_inputs().values() for name, version in text.source.rules().items()}

    def text_inputs(self) -> dict[str, TextInput]:
        """The text that this node reads with its present settings, by the name of the setting."""
        return {}

    def sequence(self) -> dict[str, int]:
        """The settings that together bound the node's longest sequence of tokens, which the model's positions must hold."""
        return {}

    def conflicts(self) -> Iterator[str]:
        """A message for each combination of settings that is not allowed."""
        return iter(())
