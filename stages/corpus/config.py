"""Settings of `corpus`: text read, split, tokenised and counted once, for the stages that train on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.schema import Cleaning, Language, NodeConfig, Source
from alma_pipeline.schema.fields import choice, number

AT_LEAST_ONE = {"above": None, "at_least": 1, "below": None, "at_most": None}


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
    directions: list[str] = field(default_factory=list, metadata={"as_before": []})
    """Filled in by the plan; empty: every language into English and out of it."""
    cleaning: Cleaning = field(default_factory=Cleaning, metadata={"as_before": Cleaning()})
    probabilities: dict[str, float] = field(default_factory=dict)
    """Share of each language among the documents; empty: equal shares."""
    temperature: float | None = field(default=None, metadata={"as_before": None, "limits": AT_LEAST_ONE})
    """Shares by size instead: n^(1/temperature) for n documents of a language, or n pairs of a direction. A text smaller than
    its share begins again; null for pairs: each once."""
    tokens: float | None = field(default=None, metadata={"as_before": None, "limits": AT_LEAST_ONE})
    """documents, pseudo_mono: stop packing here; null: when every text has been gone through."""
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

    def roles(self) -> dict[str, str]:
        """The test corpus matters to a corpus that must not hold its sentences."""
        return {role: name for role, name in self.inputs.items() if role != "test" or "test" in self.cleaning.steps}

    def conflicts(self) -> Iterator[str]:
        unknown = sorted(set(self.probabilities) - set(self.languages)) if self.languages else []
        if unknown:
            yield f"probabilities name {', '.join(unknown)}, which are not among the languages of the node"
        if any(share < 0 for share in self.probabilities.values()):
            yield "probabilities must not be negative"
        if self.probabilities and self.temperature is not None:
            yield "probabilities and temperature both say how languages are mixed; leave one out"
