"""Settings of `translate`: a checkpoint's hypotheses for a test corpus."""

from dataclasses import dataclass, field
from typing import ClassVar

from alma_pipeline.fields import choice, number
from alma_pipeline.schema import Language, NodeConfig


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    distributed: ClassVar[bool] = True
    kind: str = "translate"
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English, and the languages translated from and into it."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    beams: int = number(5, at_least=1)
    """1 decodes greedily."""
    max_source: int = number(256, at_least=1)
    max_new_tokens: int = number(256, at_least=1)
