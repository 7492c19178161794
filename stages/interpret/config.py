"""Settings of `interpret`: sentences that a person brings, translated by a checkpoint or by one adapter per language group."""

from dataclasses import dataclass, field
from typing import ClassVar

from alma_pipeline.fields import choice, number
from alma_pipeline.schema import Language, NodeConfig


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    distributed: ClassVar[bool] = True
    kind: str = "interpret"
    languages: dict[str, Language] = field(default_factory=dict)
    """Those the checkpoints translate from and into."""
    routes: dict[str, str] = field(default_factory=dict)
    """Language, the one beside English, to the input whose adapter serves it; empty: the one input serves all."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    beams: int = number(5, at_least=1)
    """1 decodes greedily."""
    max_source: int = number(256, at_least=1)
    max_new_tokens: int = number(256, at_least=1)
