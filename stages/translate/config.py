"""Settings of `translate`: a checkpoint translates a test corpus, zero-shot or few-shot (`num_shots`)."""

from dataclasses import dataclass

from alma_pipeline.schema import Translating


@dataclass(frozen=True, kw_only=True)
class Config(Translating):
    """No settings beyond those of every kind that translates."""

    kind: str = "translate"
