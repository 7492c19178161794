"""Settings of `merge`: a checkpoint's adapters taken up into its weights."""

from dataclasses import dataclass

from alma_pipeline.schema import NodeConfig
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "merge"
    precision: str = choice("fp32", "bf16", "fp16")
    """Of the merged weights; the merging itself is done in fp32."""
