"""Settings of `parallel`: parallel sentences, loss on the target only (ALMA stage 2, X-ALMA step 4)."""

from dataclasses import dataclass

from alma_pipeline.schema import Training


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Nothing beyond what every training kind has."""

    kind: str = "parallel"
