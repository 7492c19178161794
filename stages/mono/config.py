"""Settings of `mono`: all weights on mixed monolingual text (ALMA stage 1, X-ALMA step 1)."""

from dataclasses import dataclass

from alma_pipeline.schema import Training


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    kind: str = "mono"
