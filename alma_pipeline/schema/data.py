"""Text: its languages, its sources, how it is cleaned, and how much of it to expect."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from alma_pipeline.schema.fields import choice, number


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language: its name in prompts, its data and its BLEU tokenizer."""

    name: str = MISSING
    """English name, used in prompts."""
    locale: str = MISSING
    """CLDR locale."""
    nllb: str = MISSING
    """Code of NLLB and FLORES-200."""
    tokenizer: str = choice("13a", "none", "char", "flores101", "flores200", "intl", "ja-mecab", "ko-mecab", "spBLEU-1K", "zh")
    """sacrebleu tokenizer for BLEU. 13a counts as unset in scripts without spaces; see `schema.metrics.bleu_tokenizer`."""


@dataclass(frozen=True, kw_only=True)
class GroupedLanguage(Language):
    """A row of the language table: a language and its X-ALMA group."""

    group: int | None = number(MISSING, at_least=1, at_most=8)
    """Null for English only; a direction belongs to the group of its other language."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where text comes from, identified by name and revision or by content, never by path."""

    reader: str = choice("cldr", "hub", "candidates", "files")
    """candidates: built from the recipe's own checkpoint (preferences only); files: the user's own, or copies of a hub set."""
    repo: str | None = None
    revision: str | None = None
    """Hub commit, or the release of the package that generates the text. A branch is resolved to its commit at first use."""
    split: str = "train"
    trained_on: list[str] = field(default_factory=list)
    """Test sets that this text overlaps with; the report marks scores on them."""
    config: str | None = field(default=None, metadata={"as_before": None})
    """Hub configuration; may contain {lang} (`de`), {direction}, {pair} (`de-en`) or {nllb} (`deu_Latn`). null: the known one of
    the repository."""
    path: str | None = field(default=None, metadata={"as_before": None})
    """For reader=files: a path that may contain {lang}, {direction}, {pair}, {side} and *. The plan replaces it with `files`."""
    files: dict[str, str] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: what a file contains to its SHA-256. `de.jsonl` serves both directions, and so does
    `de-en/de.txt.gz` unless there is `en-de/de.txt.gz`; `de.0.jsonl` is a shard."""
    columns: dict[str, str] = field(default_factory=dict, metadata={"as_before": {}})
    """Our name of a column to its name in the file (`{source: src, target: tgt}`), or to its number, from 1, in a TSV or CSV file
    without a header."""
    on_error: str = field(default="stop", metadata={"as_before": "stop", "choices": ("stop", "skip")})
    """Reaction to a row that cannot be read. stop: raise an error; skip: count it and write it to `rejected.jsonl`."""

    def rules(self) -> dict[str, int]:
        """Versions of changed rules for the formats of its files. tmx 2: code inside markup is no text; variants are chosen."""
        return {"tmx": 2} if any(".tmx" in name for name in self.files) else {}


CLEANING = ("nfc", "length", "ratio", "script", "language", "exact", "near", "test")


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Cleaning steps before tokenisation, and their limits. The limits are our choice."""

    steps: list[str] = field(default_factory=list)
    """Steps to run, always in the order of `CLEANING`. Empty rows are always removed."""
    max_characters: int = number(2000, at_least=1)
    """length: longest sentence, in characters."""
    max_document: int = number(1_000_000, at_least=1)
    """length: longest document, in characters."""
    max_ratio: float = number(4.0, at_least=1)
    """ratio: largest ratio of the two sides' lengths in UTF-8 bytes, which differ less between scripts than characters."""
    confidence: float = number(0.9, above=0, at_most=1)
    """language: a text is removed if it is identified as another language with at least this probability."""
    max_contamination: float = number(0.05, at_least=0, at_most=1)
    """test: largest share of rows that may be removed as test sentences; above it the stage stops with an error."""

    def conflicts(self) -> Iterator[str]:
        unknown = [step for step in self.steps if step not in CLEANING]
        if unknown:
            yield f"steps: no cleaning step {', '.join(unknown)}; expected some of {', '.join(CLEANING)}"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Expected size of the text, for estimates before it has been read."""

    pairs: int = number(1000, at_least=0, at_most=10**12)
    """Sentence pairs per direction."""
    triples: int = number(1000, at_least=0, at_most=10**12)
    """Preference triples per direction."""
    test: int = number(1000, at_least=0, at_most=10**12)
    """Test sentences per direction."""
    pair_tokens: float = number(160, above=0, at_most=2**24)
    """Of a prompt and its answer together (our assumption for news text)."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The sources of text, by use, and how languages are mixed."""

    name: str = MISSING
    root: str | None = None
    """A folder with copies of hub data sets, or ALMA's own folders (`deen/train.de-en.json`), read instead of the hub."""
    on_error: str = choice("stop", "skip")
    """Reaction to a row that cannot be read, for all sources."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    temperature: float | None = number(None, at_least=1)
    """Mixes the languages of `mono` by the size of their text to the power of 1/temperature."""
    languages: list[str] = field(default_factory=list)
    """Languages other than English."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Share of each language in the documents of `mono`; empty: equal shares."""
    mono: Source = field(default_factory=Source)
    parallel: Source = field(default_factory=Source)
    pseudo: Source = field(default_factory=Source)
    """Sentence pairs that are joined into pseudo-monolingual text."""
    test: Source = field(default_factory=lambda: Source(split="test"))
    preferences: Source = field(default_factory=lambda: Source(reader="candidates"))
    expected: Expected = field(default_factory=Expected)
