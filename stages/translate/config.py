"""Settings of `translate`: a checkpoint's hypotheses for a test corpus."""

from dataclasses import dataclass, field
from typing import ClassVar

from alma_pipeline.fields import added_later, choice, number
from alma_pipeline.schema import Language, NodeConfig


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    distributed: ClassVar[bool] = True
    kind: str = "translate"
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English, and the languages translated from and into it."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    decoding: str = added_later(choice("beam", "mbr"))
    """beam: beam search; mbr: of `candidates` samples the one most like all of them (minimum Bayes risk by sentence chrF)."""
    beams: int = number(5, at_least=1)
    """1 decodes greedily."""
    engine: str = added_later(choice("own", "vllm"))
    """What decodes; vllm is optional, and its hypotheses are not those of `own`."""
    candidates: int = added_later(number(16, at_least=1))
    """Samples per sentence, with decoding=mbr (our choice)."""
    temperature: float = added_later(number(0.9, above=0))
    """Of the samples; this and top_p as in the generation_config.json of the released X-ALMA modules."""
    top_p: float = added_later(number(0.6, above=0, at_most=1))
    seed: int = added_later(number(0, at_least=0))
    """Of the samples."""
    max_source: int = number(256, at_least=1)
    max_new_tokens: int = number(256, at_least=1)

    @property
    def width(self) -> int:
        """Hypotheses of a sentence that are decoded side by side."""
        return self.beams if self.decoding == "beam" else self.candidates
