"""Settings of `corpus`: which text to read, how to clean, mix and tokenise it, and how much to hold out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import II

from alma_pipeline.schema import Cleaning, Source, TextInput, WithDirections
from alma_pipeline.schema.fields import LARGEST, choice, number

WITHOUT_MARKS = {"Latn", "Cyrl", "Grek", "Geor", "Hans", "Hant", "Jpan", "Hang"}
"""Scripts whose letters have no marks of their own: NFKC joins theirs to the letters."""
AT_LEAST_ONE = {"above": None, "at_least": 1, "below": None, "at_most": None}


@dataclass(frozen=True, kw_only=True)
class Config(WithDirections):
    """The form of the corpus, its sources, and how languages are mixed."""

    version: ClassVar[int] = 2
    """2: settings renamed, as in `errors.RENAMED`."""
    kind: str = "corpus"
    form: str = choice("documents", "pseudo_mono", "pairs", "test")
    """documents: monolingual text in blocks; pseudo_mono: pairs joined in random order, mixed with documents;
    pairs: prompt and target, loss on the target; test: plain sentence pairs, no tokens."""
    text: Source = field(default_factory=Source)
    """Monolingual text (documents, pseudo_mono)."""
    pairs: Source = field(default_factory=Source)
    """Bitext (pseudo_mono, pairs, test)."""
    cleaning: Cleaning = field(default_factory=Cleaning, metadata={"as_before": Cleaning()})
    probabilities: dict[str, float] = field(default_factory=dict)
    """Share of each language in the documents; empty: equal shares."""
    temperature: float | None = field(default=None, metadata={"as_before": None, "limits": AT_LEAST_ONE})
    """Shares by size: n^(1/temperature) for a language with n documents, or a direction with n pairs. Text smaller than its
    share is repeated. null: each pair is used once."""
    tokens: float | None = field(default=None, metadata={"as_before": None, "limits": AT_LEAST_ONE})
    """documents, pseudo_mono: stop packing at this number of tokens; null: once all text has been used."""
    pairs_share: float = number(0.5, at_least=0, at_most=1)
    """Share of joined pairs in pseudo_mono (A.3 of the X-ALMA code: 0.5)."""
    prompt: str = choice("alma", "x_alma")
    """pairs: the prompt format."""
    block: int = number(512, at_least=8)
    """documents, pseudo_mono: tokens per block."""
    max_source: int = number(256, at_least=1)
    """pairs: tokens of prompt and BOS; longer pairs are dropped."""
    max_target: int = number(256, at_least=1)
    """pairs: tokens of answer and EOS; longer pairs are dropped."""
    train: int | None = number(None, at_least=1)
    """Documents per language or pairs per direction; null: all."""
    held_out: int | None = number(100, at_least=1)
    """Held-out documents per language or pairs per direction (for form test: the test sentences); null: all."""
    seed: int = number(II("seed"), at_least=0, at_most=LARGEST)

    def roles(self) -> dict[str, str]:
        """The test corpus is an input only if its sentences are to be removed from this one."""
        return {role: name for role, name in self.inputs.items() if role != "test" or "test" in self.cleaning.steps}

    def rules(self) -> dict[str, int]:
        """marks 2: vowel signs belong to words where letters are compared or counted; before, they were left out."""
        compares = {"near", "test", "script"} & set(self.cleaning.steps)
        marked = any(language.nllb[-4:] not in WITHOUT_MARKS for language in self.languages.values())
        return super().rules() | ({"marks": 2} if compares and marked else {})

    def source_setting(self, source: Source) -> str:
        """The key under which users set this source, for messages."""
        if source is self.text and self.form in ("documents", "pseudo_mono"):
            return "data.mono"
        return {"pseudo_mono": "data.pseudo", "test": "data.test"}.get(self.form, "data.parallel")

    def text_inputs(self) -> dict[str, TextInput]:
        """Monolingual text is not read in a language whose share is 0."""
        used = [code for code in self.languages if not self.probabilities or self.probabilities.get(code, 0) > 0]
        text = {"text": TextInput(self.text, used)}
        pairs = {"pairs": TextInput(self.pairs, self.chosen_directions())}
        return {"documents": text, "pseudo_mono": text | pairs}.get(self.form, pairs)

    def sequence(self) -> dict[str, int]:
        pairs = {"max_source": self.max_source, "max_target": self.max_target}
        return {"pairs": pairs, "test": {}}.get(self.form, {"block": self.block})

    def conflicts(self) -> Iterator[str]:
        unknown = sorted(set(self.probabilities) - set(self.languages)) if self.languages else []
        if unknown:
            yield f"probabilities: {', '.join(unknown)} not among the node's languages ({', '.join(self.languages)})"
        if any(share < 0 for share in self.probabilities.values()):
            yield "probabilities must not be negative"
        if self.probabilities and self.temperature is not None:
            yield "probabilities and temperature both set the shares of languages; remove one"
