"""Settings of `outputs`: what another system made of a test corpus, read from files, in the shape of `translate`'s hypotheses."""

from dataclasses import dataclass, field

from alma_pipeline.schema import Language, NodeConfig, Source


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "outputs"
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English, and the languages of the run."""
    directions: list[str] = field(default_factory=list)
    """Filled in by the plan; empty: every language into English and out of it."""
    given: dict[str, Source] = field(default_factory=dict)
    """Filled in by the plan: the one system's name (`evaluation.outputs`) to its files."""
