"""Text: languages, where it comes from, and what it is expected to hold."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from alma_pipeline.fields import choice, number


@dataclass(frozen=True, kw_only=True)
class Language:
    """What a language's name, data and scores depend on."""

    name: str = MISSING
    """English name, as the prompts spell it."""
    locale: str = MISSING
    """CLDR locale."""
    nllb: str = MISSING
    """Code of NLLB and FLORES-200."""
    tokenizer: str = "13a"
    """sacrebleu tokenizer for BLEU."""


@dataclass(frozen=True, kw_only=True)
class GroupedLanguage(Language):
    """A line of the language table: a language and its X-ALMA group."""

    group: int | None = number(MISSING, at_least=1, at_most=8)
    """Null for English only: a direction's group is that of its other side."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where text comes from, by identity: never by path."""

    reader: str = choice("cldr", "hub", "candidates")
    """`candidates` (preferences only): built from the recipe's own checkpoint."""
    repo: str | None = None
    revision: str | None = None
    """Hub commit, or the release of the package that generates the text."""
    split: str = "train"
    trained_on: list[str] = field(default_factory=list)
    """Test sets this text overlaps with; scores on them are marked."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the text holds, for estimates before it has been read."""

    pairs: int = 1000
    """Sentence pairs per direction."""
    triples: int = 1000
    """Preference triples per direction."""
    test: int = 1000
    """Test sentences per direction."""
    pair_tokens: float = 160
    """Prompt and answer together (our assumption for sentences of news text)."""


@dataclass(frozen=True, kw_only=True)
class Data:
    name: str = MISSING
    languages: list[str] = field(default_factory=list)
    """Languages beside English."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Share of each language among `mono`'s documents; empty: equal shares."""
    mono: Source = field(default_factory=Source)
    parallel: Source = field(default_factory=Source)
    pseudo: Source = field(default_factory=Source)
    """Bitext joined into pseudo-monolingual lines."""
    test: Source = field(default_factory=lambda: Source(split="test"))
    preferences: Source = field(default_factory=lambda: Source(reader="candidates"))
    expected: Expected = field(default_factory=Expected)
