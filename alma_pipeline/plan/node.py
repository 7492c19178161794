"""A node of the graph: one instance of a stage's settings, for one group or one checkpoint."""

from dataclasses import dataclass, field

from alma_pipeline.schema import NodeConfig, Training

TEMPLATES = ("translate", "score")
"""Nodes that are copied for every evaluated checkpoint."""
TEST = "test_corpus"
"""What their copies are about."""
EXAMPLES = "parallel_corpus"
"""What few-shot prompts show sentences of."""
SHARED = ("kind", "per_group")
"""What a node is cannot differ from group to group."""


@dataclass(frozen=True)
class Node:
    """One instance: a node of the configuration, or its copy for one group or one checkpoint."""

    name: str
    config: NodeConfig
    inputs: dict[str, str]
    """Role to instance name."""
    setting: str
    """Where its settings stand in the configuration: `stages.cpo`."""
    group: int | None = None
    target: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """Where text that its settings name by digest lies; no part of what it is."""
    codes: list[str] = field(default_factory=list)
    """Of the table of languages, which the rows of its text may name; no part of what it is."""

    @property
    def kind(self) -> str:
        """Which stage makes it."""
        return self.config.kind


def base_name(instance: str) -> str:
    return instance.rpartition(".")[2]


def is_training(node: Node) -> bool:
    """Whether a node makes a checkpoint by training."""
    return isinstance(node.config, Training)
