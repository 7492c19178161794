"""Text: languages, where it comes from, and what it is expected to hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from alma_pipeline.schema.fields import choice, number


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

    reader: str = choice("cldr", "hub", "candidates", "files")
    """`candidates` (preferences only): built from the recipe's own checkpoint; `files`: one's own, or copies of a hub set."""
    repo: str | None = None
    revision: str | None = None
    """Hub commit, or the release of the package that generates the text. A branch becomes its commit at first use (`pins`)."""
    split: str = "train"
    trained_on: list[str] = field(default_factory=list)
    """Test sets this text overlaps with; scores on them are marked."""
    config: str | None = field(default=None, metadata={"as_before": None})
    """Hub configuration, with {lang} (`de`), {direction}, {pair} (`de-en`) or {nllb} (`deu_Latn`) in it; null: the one known for
    the repository."""
    path: str | None = field(default=None, metadata={"as_before": None})
    """For `files`: where they are, with {lang}, {direction}, {pair}, {side} and * in it. The plan puts `files` in its place."""
    files: dict[str, str] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: what a file holds (`de.jsonl`, `de-en/de.txt.gz`) to its SHA-256."""
    columns: dict[str, str] = field(default_factory=dict, metadata={"as_before": {}})
    """Names of columns that are called otherwise in a file (`{source: src, target: tgt}`), or their numbers from 1 in a TSV or
    CSV file without a header."""
    on_error: str = field(default="stop", metadata={"as_before": "stop", "choices": ("stop", "skip")})
    """A row that cannot be read: stop, or leave it out, count it and keep it in `rejected.jsonl`."""


CLEANING = ("nfc", "length", "ratio", "script", "language", "exact", "near", "test")


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is done to text before it is tokenised. The limits are our choice."""

    steps: list[str] = field(default_factory=list)
    """Those of `CLEANING` that are done, in its order, whatever the order here. Empty rows always go."""
    max_characters: int = number(2000, at_least=1)
    """length: the most characters of a sentence."""
    max_document: int = number(1_000_000, at_least=1)
    """length: the most characters of a document."""
    max_ratio: float = number(4.0, at_least=1)
    """ratio: of the two sides' UTF-8 bytes; bytes differ less between scripts than characters do."""
    confidence: float = number(0.9, above=0, at_most=1)
    """language: a text goes when it is taken for another language with at least this probability."""
    most_contaminated: float = number(0.05, at_least=0, at_most=1)
    """test: the largest share of rows that may go for standing in a test set; above it the stage stops."""

    def conflicts(self) -> Iterator[str]:
        unknown = [step for step in self.steps if step not in CLEANING]
        if unknown:
            yield f"steps names {', '.join(unknown)}; expected some of {', '.join(CLEANING)}"


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
    """Where the text of each kind comes from."""

    name: str = MISSING
    root: str | None = None
    """A folder with copies of hub data sets, or ALMA's own folders (`deen/train.de-en.json`): read where they hold a source."""
    on_error: str = choice("stop", "skip")
    """What a row that cannot be read does to the stage."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    temperature: float | None = number(None, at_least=1)
    """Share of each language among `mono`'s documents by the size of its text to the power of 1/temperature."""
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
