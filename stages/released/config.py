"""Settings of `released`: a checkpoint that somebody else trained, in the place of one this recipe would train."""

from dataclasses import dataclass, field

from alma_pipeline.schema import NodeConfig
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "released"
    repo: str = ""
    """Hub repository, or a local folder's absolute path."""
    revision: str = "main"
    form: str = choice("full", "adapter")
    adapter: str = choice("new", "continue", "merge_then_new")
    """How an adapter stands to the checkpoint before it: `continue` takes the place of that one's own adapter."""
    trained_on: list[str] = field(default_factory=list)
    """Test sets that its training text overlaps with."""
