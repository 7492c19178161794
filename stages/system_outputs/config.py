"""Settings of `system_outputs`: another system's translations of a test corpus, read into the format of `translate`."""

from dataclasses import dataclass, field

from alma_pipeline.schema import WithSystems


@dataclass(frozen=True, kw_only=True)
class Config(WithSystems):
    """`system_outputs` has exactly one system: the one that this node reads."""

    kind: str = "system_outputs"
    directions: list[str] = field(default_factory=list)
    """As in `WithDirections`, but always part of the key."""
