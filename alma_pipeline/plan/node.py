"""A node of the graph: one stage with its settings, for the whole run, one group or one checkpoint."""

from dataclasses import dataclass, field

from alma_pipeline.schema import NodeConfig, Training

TEMPLATES = ("translate", "score")
"""Nodes that are copied for each evaluated checkpoint."""
TEST = "test_corpus"
"""The test set that those copies translate and score."""
OUTPUTS = "outputs"
"""End of the name of a node that reads another system's outputs: `gpt4.outputs`."""
EXAMPLES = "parallel_corpus"
"""The corpus that few-shot prompts take their examples from."""
SHARED = ("kind", "per_group")
"""Settings that cannot differ between groups, since they say what a node is."""


@dataclass(frozen=True)
class Node:
    """A node of the configuration, or its copy for one group or one checkpoint."""

    name: str
    config: NodeConfig
    inputs: dict[str, str]
    """Role to node name."""
    setting: str
    """The key of its settings in the configuration, such as `stages.cpo`."""
    group: int | None = None
    target: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """Digest to path of the text files that its settings name by digest; not part of its identity."""
    gone: list[str] = field(default_factory=list)
    """Those of its text files that no longer exist; the settings have their last known digests."""
    notes: list[str] = field(default_factory=list)
    """What the plan reports about its text; not part of its identity."""
    codes: list[str] = field(default_factory=list)
    """Language codes that rows of its text may name; not part of its identity."""

    @property
    def kind(self) -> str:
        """The stage that makes it."""
        return self.config.kind


def base_name(instance: str) -> str:
    """`arpo` of `g5.arpo`, `score` of `cpo.score`."""
    return instance.rpartition(".")[2]


def is_training(node: Node) -> bool:
    """Whether a node trains a checkpoint."""
    return isinstance(node.config, Training)
