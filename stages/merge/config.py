"""Settings of `merge`: merge a checkpoint's adapters into its weights."""

from dataclasses import dataclass

from alma_pipeline.schema import NodeConfig
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    """The precision of the result."""

    kind: str = "merge"
    precision: str = choice("fp32", "bf16", "fp16")
    """Precision of the saved weights; merging itself is done in fp32."""
