"""Settings of `corpus`: text read, split, tokenised and counted once, for the stages that train on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.fields import choice, number
from alma_pipeline.schema import Language, NodeConfig, Source


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "corpus"
    form: str = choice("documents", "pseudo_mono", "pairs", "test")
    """documents: monolingual text in blocks; pseudo_mono: pairs joined in random order, mixed with documents;
    pairs: prompt and target, loss on the target; test: plain sentence pairs, no tokens."""
    text: Source = field(default_factory=Source)
    """Monolingual text (documents, pseudo_mono)."""
    pairs: Source = field(default_factory=Source)
    """Bitext (pseudo_mono, pairs, test)."""
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English, and the languages of the run or of the node's group."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Share of each language among the documents; empty: equal shares."""
    pairs_share: float = number(0.5, at_least=0, at_most=1)
    """Share of joined pairs in pseudo_mono (A.3 of the X-ALMA code: 0.5)."""
    prompt: str = choice("alma", "x_alma")
    block: int = number(512, at_least=8)
    max_source: int = number(256, at_least=1)
    max_target: int = number(256, at_least=1)
    train: int | None = number(None, at_least=1)
    """Documents per language or pairs per direction; null: all there are."""
    held_out: int | None = number(100, at_least=1)
    """Held-out documents per language or pairs per direction (for form test: the sentences); null: all there are."""
    seed: int = II("seed")

    def conflicts(self) -> Iterator[str]:
        unknown = sorted(set(self.probabilities) - set(self.languages)) if self.languages else []
        if unknown:
            yield f"probabilities name {', '.join(unknown)}, which are not among the languages of the node"
        if any(share < 0 for share in self.probabilities.values()):
            yield "probabilities must not be negative"
