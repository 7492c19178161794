"""The reader `cldr`: generates an aligned corpus from Unicode CLDR in any of Babel's languages, without files or downloads.

A phrase is a template and a value. A hash of the two decides its split, so no choice of languages, seed or size moves a phrase
to another split. `cldr_templates` has the wording.
"""

import functools
import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import babel
from babel import Locale

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.cldr_templates import TEMPLATES, Template, Untranslated, Value
from alma_pipeline.ml.data.rows import Document, SentencePair, Stream
from alma_pipeline.schema import Language, Source

SPLITS = {"test": 10, "dev": 10, "train": 80}
"""Percentages of the phrases. A text that occurs in two splits is kept only in the one listed first."""
PHRASES_PER_DOCUMENT = 4


@dataclass(frozen=True)
class Phrase:
    """A template with a value, independent of any language."""

    template: Template
    value: tuple[Value, ...]
    id: str

    @property
    def split(self) -> str:
        """train, dev or test, decided by the phrase's id and so the same in every language."""
        mark = _number(self.id) % 100
        return "test" if mark < SPLITS["test"] else "dev" if mark < SPLITS["test"] + SPLITS["dev"] else "train"

    @property
    def subject(self) -> str:
        """A thing that the phrase names, or its first number if it names none."""
        names = [item for item in self.value if isinstance(item, str)]
        return names[_number(self.id) % len(names)] if names else str(self.value[0])


def check_revision(source: Source) -> None:
    """Raises UserError unless the configured Babel release is installed: another release generates other text."""
    if source.revision not in (babel.__version__, f"babel-{babel.__version__}"):
        raise UserError(
            f"reader=cldr, revision={source.revision or 'null'}: Babel generates this text, and Babel {babel.__version__} is "
            f"installed. Install the release that revision names, or set revision={babel.__version__}, which is other data: "
            "everything built from the old text is built again"
        )


@functools.cache
def phrases() -> tuple[Phrase, ...]:
    """All phrases; the same in every process and for any choice of languages."""
    return tuple(phrase for template in TEMPLATES for phrase in _phrases(template))


def _phrases(template: Template) -> Iterator[Phrase]:
    seen = set()
    # Values come from a hash, not from random numbers, so that they never depend on the Python version or the seed.
    for draw in range(template.draws):
        digest = hashlib.blake2b(f"{template.name}#{draw}".encode(), digest_size=4 * len(template.parts)).digest()
        value = tuple(part[int.from_bytes(digest[4 * i : 4 * i + 4]) % len(part)] for i, part in enumerate(template.parts))
        names = [item for item in value if isinstance(item, str)]
        if value not in seen and len(set(names)) == len(names):
            seen.add(value)
            yield Phrase(template, value, f"{template.name}:{json.dumps(value)[1:-1].replace(' ', '')}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class Phrasebook:
    """The phrases in a set of languages. No text of one split occurs in another, in any of the languages."""

    def __init__(self, languages: Mapping[str, Language], seed: int) -> None:
        """The seed orders the training phrases, and the sides of joined pairs. Raises UserError unless there are English and
        another language."""
        if "en" not in languages or len(languages) < 2:
            found = ", ".join(languages) or "none"
            raise UserError(
                f"reader=cldr needs English (en) and at least one other language; found {found}. Add them to data.languages"
            )
        self.seed = seed
        self.codes = list(languages)
        self._locales = {code: Locale.parse(language.locale) for code, language in languages.items()}
        self._texts: dict[str, dict[str, str | None]] = {code: {} for code in languages}
        self._earlier: dict[str, frozenset[str]] = {}

    def text(self, code: str, phrase: Phrase) -> str | None:
        """The phrase in one language; None if CLDR has no words for it."""
        known = self._texts[code]
        if phrase.id not in known:
            known[phrase.id] = _render(self._locales[code], phrase)
        return known[phrase.id]

    def ordered(self, split: str, salt: str) -> list[Phrase]:
        """The phrases of a split in a fixed shuffled order, which `salt` varies."""
        chosen = [phrase for phrase in phrases() if phrase.split == split]
        return sorted(chosen, key=lambda phrase: _number(f"{self.order(split)}/{salt}/{phrase.id}"))

    def order(self, split: str) -> str:
        """The key of a split's order. Dev and test do not follow the seed: all runs are scored on the same sentences."""
        return str(self.seed) if split == "train" else "held out"

    def reserved(self, split: str) -> frozenset[str]:
        """The texts of all splits listed before this one, in any of the languages."""
        if split not in self._earlier:
            names = list(SPLITS)[: list(SPLITS).index(split)]
            texts = (self.text(code, phrase) for phrase in phrases() if phrase.split in names for code in self._locales)
            self._earlier[split] = frozenset(text for text in texts if text is not None)
        return self._earlier[split]


class CldrReader:
    """Reads one split: up to `limit` rows of each language or direction. Has the same interface as `TextReader`."""

    def __init__(self, book: Phrasebook, split: str, limit: int | None = None, held_out: "CldrReader | None" = None) -> None:
        """`held_out`: the reader of the split that is held out of training."""
        self.book, self.split, self.limit, self.held_out = book, split, limit, held_out

    def pairs(self, direction: str, skip: int = 0) -> Stream[SentencePair]:
        """Sentence pairs of one direction after the first `skip`, in a fixed shuffled order, with one target per source.

        Reasons to drop a pair: untranslated (CLDR lacks the words in one language), leak (one side is in a split listed
        before), duplicate, conflict (the source already has another target).
        """
        dropped = Counter[str]()
        kept = first_targets(self._both_sides(direction, dropped), dropped)
        return Stream(itertools.islice(kept, skip, self.limit), skip, dropped)

    def _both_sides(self, direction: str, dropped: Counter[str]) -> Iterator[SentencePair]:
        source, target = direction.split("-")
        reserved = self.book.reserved(self.split)
        for phrase in self.book.ordered(self.split, ""):
            one, other = self.book.text(source, phrase), self.book.text(target, phrase)
            if one is None or other is None:
                dropped["untranslated"] += 1
            elif one in reserved or other in reserved:
                dropped["leak"] += 1
            else:
                yield SentencePair(f"{direction}:{phrase.id}", direction, one, other)

    def documents(self, code: str, skip: int = 0) -> Stream[Document]:
        """Documents of one language after the first `skip`, in a fixed shuffled order. Each phrase is in one document at most.

        Most documents have one subject (a place, a unit, a year), so they repeat words as real text does. Each language groups
        its phrases in its own order, so documents are not aligned across languages.
        """
        dropped = Counter[str]()
        texts = _grouped(self._subjects(code, dropped).values())
        ordered = sorted(texts, key=lambda text: _number(f"{self.book.order(self.split)}/{code}/{text}"))
        found = (Document(f"{code}:{self.split}:{number}", code, text) for number, text in enumerate(ordered))
        return Stream(itertools.islice(found, skip, self.limit), skip, dropped)

    def _subjects(self, code: str, dropped: Counter[str]) -> dict[str, list[str]]:
        """The texts of a language by subject, each text once."""
        subjects: dict[str, list[str]] = {}
        seen: set[str] = set()
        reserved = self.book.reserved(self.split)
        for phrase in self.book.ordered(self.split, code):
            text = self.book.text(code, phrase)
            if text is None:
                dropped["untranslated"] += 1
            elif text in reserved:
                dropped["leak"] += 1
            elif text in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(text)
                subjects.setdefault(phrase.subject, []).append(text)
        return subjects

    def join(self, pair: SentencePair) -> Document:
        """Join a pair into English into one line with a space, either side first with equal probability (X-ALMA's
        pseudo-monolingual text: `A B` or `B A`, without tags or a prompt)."""
        code, english = pair.direction.split("-")
        order, text = pair.direction, f"{pair.source} {pair.target}"
        if self._swaps[pair.id]:
            order, text = f"{english}-{code}", f"{pair.target} {pair.source}"
        return Document(f"{order}:{pair.id.removeprefix(f'{pair.direction}:')}", order, text)

    @functools.cached_property
    def _swaps(self) -> dict[str, bool]:
        """Which pairs into English are joined with English first. Drawn in the order of languages and pairs."""
        draw = random.Random(f"join/{self.split}/{self.book.seed}")
        into_english = [f"{code}-en" for code in self.book.codes if code != "en"]
        swaps = {pair.id: draw.random() < 0.5 for direction in into_english for pair in self.pairs(direction)}
        return swaps | (self.held_out._swaps if self.held_out else {})

    def bytes(self, part: str) -> int:
        """0: the size is unknown before the text is generated."""
        return 0


def open_cldr(source: Source, split: str, book: Phrasebook, limit: int | None, held_out: int | None = None) -> CldrReader:
    """Open a split; train comes with a reader of up to `held_out` rows of dev.

    Raises UserError if the source names another split, or a release of Babel that is not installed.
    """
    if source.split != split:
        raise UserError(f"reader=cldr, split={source.split}: expected split={split} for this form of corpus")
    check_revision(source)
    return CldrReader(book, split, limit, CldrReader(book, "dev", held_out) if split == "train" else None)


def first_targets(pairs: Iterable[SentencePair], dropped: Counter[str]) -> Iterator[SentencePair]:
    """The first pair of each source; counts the others in `dropped`."""
    first: dict[str, str] = {}
    for pair in pairs:
        if pair.source in first:
            dropped["duplicate" if first[pair.source] == pair.target else "conflict"] += 1
        else:
            first[pair.source] = pair.target
            yield pair


def _grouped(subjects: Iterable[list[str]]) -> Iterator[str]:
    """Group the texts of each subject, then the remainders of all subjects; a last group that is too small is dropped."""
    size = PHRASES_PER_DOCUMENT
    remainders: list[str] = []
    for texts in subjects:
        whole = len(texts) // size * size
        remainders += texts[whole:]
        for start in range(0, whole, size):
            yield "\n".join(texts[start : start + size])
    for start in range(0, len(remainders) - size + 1, size):
        yield "\n".join(remainders[start : start + size])


def _render(locale: Locale, phrase: Phrase) -> str | None:
    """The text, with CLDR's no-break and thin spaces replaced by plain ones."""
    try:
        return " ".join(phrase.template.render(locale, *phrase.value).split())
    except Untranslated:
        return None
