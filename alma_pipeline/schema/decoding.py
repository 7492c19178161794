"""Settings of kinds that decode with a checkpoint: how sentences are translated, and which candidate is kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from alma_pipeline.schema.fields import LARGEST, added_later, choice, number
from alma_pipeline.schema.filled_in import WithLanguages, WithScorers
from alma_pipeline.schema.node import NodeConfig


@dataclass(frozen=True, kw_only=True)
class Decoding(NodeConfig):
    """Settings of every kind that generates translations with a checkpoint."""

    version: ClassVar[int] = 2
    """2: settings renamed, as in `errors.RENAMED`."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    """Precision of the weights while decoding."""
    engine: str = added_later(choice("native", "vllm"))
    """The decoder; vllm is optional, and its outputs differ from those of `native`."""
    max_new_tokens: int = number(256, at_least=1)
    quantization: str = added_later(choice("none", "nf4"))
    """Format of the full model's matrices. none: as `precision` says, with all adapters merged; nf4: 4 bits (QLoRA, arXiv
    2305.14314), with all adapters beside them. A checkpoint that was trained on 4 bits gets the very weights that it was trained
    on; any other is rounded to 4 bits, which may cost it some quality."""

    @property
    def distributed(self) -> bool:
        """Our own decoder runs in every process; vLLM is one process that starts others itself."""
        return self.engine == "native"

    def rules(self) -> dict[str, int]:
        """2: vLLM gets an adapter that it serves unmerged, and runs in an environment of its own."""
        return super().rules() | ({"vllm": 2} if self.engine == "vllm" else {})

    def sequence(self) -> dict[str, int]:
        return {"max_new_tokens": self.max_new_tokens}

    def conflicts(self) -> Iterator[str]:
        if self.quantization == "nf4" and self.engine != "native":
            yield f"quantization=nf4 needs engine=native, found {self.engine}; set quantization=none or engine=native"


@dataclass(frozen=True, kw_only=True)
class Translating(WithLanguages, WithScorers, Decoding):
    """How hypotheses are decoded, and which of them is kept."""

    decoding: str = added_later(choice("beam", "mbr", "quality"))
    """beam: beam search; mbr: of `candidates` samples, the one most similar to all others (minimum Bayes risk); quality: the one
    that the neural scorers in `rank_by` rate highest, without a reference."""
    num_beams: int = number(5, at_least=1)
    """1 decodes greedily."""
    candidates: int = added_later(number(16, at_least=1, at_most=10_000))
    """Samples per sentence, with decoding=mbr (our choice)."""
    temperature: float = added_later(number(0.9, at_least=1e-6))
    """Sampling temperature; temperature and top_p are those in generation_config.json of the released X-ALMA modules."""
    top_p: float = added_later(number(0.6, above=0, at_most=1))
    seed: int = added_later(number(0, at_least=0, at_most=LARGEST))
    """Seed of the samples."""
    rank_by: list[str] = field(default_factory=lambda: ["chrf"], metadata={"as_before": ["chrf"]})
    """Scorers that rank the samples, by their mean: names in the scorer table, and with mbr also chrf."""
    num_shots: int = added_later(number(0, at_least=0))
    """Few-shot: the number of training pairs of the direction shown before each sentence. They count towards max_source, and a
    translation is then one line."""
    max_source: int = number(256, at_least=1)

    def scorer_names(self) -> list[str]:
        """Names in the scorer table; beam search ranks nothing, and chrF needs no model."""
        return [name for name in self.rank_by if name != "chrf"] if self.decoding != "beam" else []

    def sequence(self) -> dict[str, int]:
        return {"max_source": self.max_source, **super().sequence()}

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.decoding == "quality" and "chrf" in self.rank_by:
            yield "decoding=quality cannot rank by chrf, which needs a reference; list scorers such as kiwi-22 in rank_by"
        if self.decoding == "beam" and self.rank_by != ["chrf"]:
            yield f"rank_by={', '.join(self.rank_by)} has no effect with decoding=beam, which has no samples; use mbr or quality"
        if not self.rank_by or len(set(self.rank_by)) < len(self.rank_by):
            yield f"rank_by={', '.join(self.rank_by) or 'nothing'}: expected one scorer or several different ones"

    @property
    def width(self) -> int:
        """Hypotheses per sentence that are decoded at the same time."""
        return self.num_beams if self.decoding == "beam" else self.candidates


@dataclass(frozen=True, kw_only=True)
class VllmEngine:
    """How vLLM runs."""

    python: str | None = None
    """Python interpreter of an environment with vllm; null: the one that `make vllm` creates."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """How decoding engines other than our own run; part of no key."""

    vllm: VllmEngine = field(default_factory=VllmEngine)
