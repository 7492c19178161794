"""Settings of `fake`: text in, text out."""

from dataclasses import dataclass

from alma_pipeline.schema import NodeConfig
from alma_pipeline.schema.fields import number


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "fake"
    text: str = ""
    steps: int = number(2, at_least=0)
    adapter: str = "none"
    """none: a full checkpoint; new, continue: an adapter on `init`."""

    @property
    def saves_on_notice(self) -> bool:
        return True
