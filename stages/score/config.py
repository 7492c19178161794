"""Settings of `score`: sacrebleu scores of a translate node's hypotheses."""

from dataclasses import dataclass, field

from alma_pipeline.schema import Language, NodeConfig


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "score"
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan; carries the BLEU tokenizer of each target language."""
