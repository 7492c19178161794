"""Settings of `translate`: a checkpoint's hypotheses for a test corpus, zero-shot or after examples (`shots`)."""

from dataclasses import dataclass

from alma_pipeline.schema import Translating


@dataclass(frozen=True, kw_only=True)
class Config(Translating):
    kind: str = "translate"
