"""Settings of `outputs`: another system's translations of a test corpus, read from files into the form of `translate`."""

from dataclasses import dataclass, field

from alma_pipeline.schema import WithSystems


@dataclass(frozen=True, kw_only=True)
class Config(WithSystems):
    """The one system whose outputs this node reads."""

    kind: str = "outputs"
    directions: list[str] = field(default_factory=list)
    """As in `WithDirections`, but always part of the key."""
