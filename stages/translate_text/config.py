"""Settings of `translate_text`: translate the user's sentences with one checkpoint, or with one adapter per language group."""

from dataclasses import dataclass, field

from alma_pipeline.schema import Translating


@dataclass(frozen=True, kw_only=True)
class Config(Translating):
    """How to translate, and with which adapter for which language."""

    kind: str = "translate_text"
    routes: dict[str, str] = field(default_factory=dict)
    """Language (the side that is not English) to the input whose adapter translates it; empty: one input translates all."""
