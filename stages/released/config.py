"""Settings of `released`: a published checkpoint that replaces one this recipe would train."""

from dataclasses import dataclass, field

from alma_pipeline.schema import NodeConfig
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    """Where the checkpoint is, and its form."""

    kind: str = "released"
    repo: str = ""
    """Hub repository, or the absolute path of a local folder."""
    revision: str = "main"
    form: str = choice("full", "adapter")
    """full: all weights; adapter: a LoRA on top of the input `init`."""
    adapter: str = choice("new", "continue", "merge_then_new")
    """How an adapter relates to its parent: with `continue`, it replaces the parent's own adapter."""
    named_base: str = field(default="", metadata={"as_before": ""})
    """Of an adapter: the folder that it names as its base, if it is here; the weights of the two are compared."""
    trained_on: list[str] = field(default_factory=list)
    """Test sets that overlap with its training text."""
