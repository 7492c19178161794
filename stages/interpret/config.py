"""Settings of `interpret`: sentences that a person brings, translated by a checkpoint or by one adapter per language group."""

from dataclasses import dataclass, field

from alma_pipeline.schema import Translating


@dataclass(frozen=True, kw_only=True)
class Config(Translating):
    kind: str = "interpret"
    routes: dict[str, str] = field(default_factory=dict)
    """Language, the one beside English, to the input whose adapter serves it; empty: the one input serves all."""
