"""Settings of `mono`: all weights on mixed monolingual text (ALMA stage 1, X-ALMA step 1)."""

from dataclasses import dataclass

from alma_pipeline.schema import BlockTraining


@dataclass(frozen=True, kw_only=True)
class Config(BlockTraining):
    """Blocks of documents; `adapter` is none unless set."""

    kind: str = "mono"
