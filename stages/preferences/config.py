"""Settings of `preferences`: (source, chosen, rejected) triples, built from a checkpoint or read from a release."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import II

from alma_pipeline.fields import choice, number
from alma_pipeline.schema import Language, NodeConfig, Source


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    distributed: ClassVar[bool] = True
    kind: str = "preferences"
    pairs: Source = field(default_factory=lambda: Source(reader="candidates"))
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    """Of the checkpoint while it decodes candidates."""
    sources: int = number(100, at_least=1)
    """Training sources per direction."""
    held_out: int = number(25, at_least=1)
    """Held-out sources per direction, none of them a training source."""
    candidates: int = number(4, at_least=1)
    """Sampled per source; the reference joins them."""
    temperature: float = number(1.0, above=0)
    top_p: float = number(0.95, above=0, at_most=1)
    max_new_tokens: int = number(256, at_least=1)
    scorer: str = choice("chrf")
    """chrf: sentence chrF of sacrebleu against the reference."""
    min_margin: float = number(5.0, at_least=0)
    """Smallest difference of score between chosen and rejected, in points (our choice)."""
    seed: int = II("seed")

    def roles(self) -> dict[str, str]:
        """Released triples come from no checkpoint of ours."""
        return self.inputs if self.pairs.reader == "candidates" else {}

    def conflicts(self) -> Iterator[str]:
        if self.pairs.reader == "cldr":
            yield "pairs.reader=cldr holds no preferences; expected candidates or hub"
