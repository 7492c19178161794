"""What every kind shares that translates with a checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from alma_pipeline.schema.data import Language
from alma_pipeline.schema.fields import added_later, choice, number
from alma_pipeline.schema.node import NodeConfig
from alma_pipeline.schema.scorer import Neural


@dataclass(frozen=True, kw_only=True)
class Translating(NodeConfig):
    """How hypotheses are decoded, and which of them is taken."""

    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English, and the languages translated from and into it."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    decoding: str = added_later(choice("beam", "mbr", "quality"))
    """beam: beam search; mbr: of `candidates` samples the one most like all of them (minimum Bayes risk); quality: the one that
    the neural scorers of `rank_by` find the best translation of its source, without a reference."""
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
    rank_by: list[str] = field(default_factory=lambda: ["chrf"], metadata={"as_before": ["chrf"]})
    """What samples are ranked by, the mean of several: names in the table of scorers, and for mbr chrf."""
    scorers: dict[str, Neural] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: what those names stand for."""
    shots: int = added_later(number(0, at_least=0))
    """Few-shot: as many training pairs of the direction are shown before each sentence, and a translation is one line. They count
    against max_source."""
    max_source: int = number(256, at_least=1)
    max_new_tokens: int = number(256, at_least=1)

    def neural(self) -> list[str]:
        """Scorers that need a model of their own."""
        return [name for name in self.rank_by if name != "chrf"] if self.decoding != "beam" else []

    def conflicts(self) -> Iterator[str]:
        if self.decoding == "quality" and "chrf" in self.rank_by:
            yield "decoding=quality with rank_by=chrf, which compares with a reference; expected scorers as kiwi-22 in rank_by"
        if self.decoding == "beam" and self.rank_by != ["chrf"]:
            yield f"rank_by={', '.join(self.rank_by)} ranks samples, and decoding=beam draws none; expected mbr or quality"
        if not self.rank_by or len(set(self.rank_by)) < len(self.rank_by):
            yield f"rank_by={', '.join(self.rank_by) or 'nothing'}: expected one scorer or several different ones"

    @property
    def distributed(self) -> bool:
        """vLLM is one process, which starts its own."""
        return self.engine == "own"

    @property
    def width(self) -> int:
        """Hypotheses of a sentence that are decoded side by side."""
        return self.beams if self.decoding == "beam" else self.candidates


VLLM_MISSING = (
    "engine=vllm: the package vllm is not installed here. Install it into this environment (pip install vllm; it needs a GPU), "
    "or take engine=own, which needs nothing"
)
