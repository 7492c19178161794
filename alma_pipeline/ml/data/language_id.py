"""Which language a text is in, as far as can be told: py3langid's naive Bayes over byte n-grams (after Lui and Baldwin 2012).

Scripts are the business of `scripts`. Knows no corpus.
"""

import functools
import unicodedata
from collections import Counter

from py3langid.langid import MODEL_FILE, LanguageIdentifier

MIN_PROBABILITY = 0.5
"""Probability from which a language counts as told (our choice). Dates and numbers, which are alike everywhere, stay below."""
SAME_LANGUAGE = {"nn": "no", "wuu": "zh", "yue": "zh", "ary": "ar", "arz": "ar", "uzs": "uz"}
"""Written forms that are one language to the recipe."""
NO_LANGUAGE = "zxx"
"""ISO 639 for no language at all."""
CONFUSABLE = ({"id", "ms"}, {"no", "nn", "da"}, {"sr", "hr", "bs"}, {"cs", "sk"}, {"gl", "pt"}, {"az", "tr"}, {"kk", "ky"})
"""Languages that are mixed up in a single sentence: to be taken for a sibling is no reason to go (our choice)."""


def detect_language(text: str) -> str | None:
    """The code of the text's language; None where it cannot be told, as of a few words or numbers."""
    shares: dict[str, float] = {}
    for code, share in _identifier().rank(text):
        name = SAME_LANGUAGE.get(code, code)
        shares[name] = shares.get(name, 0.0) + share
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= MIN_PROBABILITY and best != NO_LANGUAGE else None


def is_other_language(text: str, code: str, confidence: float) -> bool:
    """Whether the text is in another language than `code` with a probability of at least `confidence`.

    A language that cannot be recognised is never doubted.
    """
    if not is_supported(code):
        return False
    found, probability = _identifier().classify(text)
    alike = any({found, code} <= siblings for siblings in CONFUSABLE)
    return bool(found != code and not alike and probability >= confidence)


def is_supported(code: str) -> bool:
    """Whether texts in this language can be recognised at all."""
    return code in _codes()


@functools.cache
def _identifier() -> LanguageIdentifier:
    """Read once: the model is all 50 languages of X-ALMA and more, in the package."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _codes() -> frozenset[str]:
    return frozenset(_identifier().labels)


SCRIPTS = {
    "Latn": ("LATIN",),
    "Cyrl": ("CYRILLIC",),
    "Grek": ("GREEK",),
    "Arab": ("ARABIC",),
    "Hebr": ("HEBREW",),
    "Deva": ("DEVANAGARI",),
    "Gujr": ("GUJARATI",),
    "Geor": ("GEORGIAN",),
    "Thai": ("THAI",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Jpan": ("HIRAGANA", "KATAKANA", "CJK"),
    "Hang": ("HANGUL", "CJK"),
}
"""Script of an NLLB code to the first word of its letters' Unicode names."""


@functools.lru_cache(maxsize=70_000)
def _script(letter: str) -> str:
    """The first word of a letter's name; empty for what is no letter."""
    return unicodedata.name(letter, "").split(" ")[0].split("-")[0] if letter.isalpha() else ""


def in_script(text: str, script: str) -> bool:
    """Whether at least half of the letters are of the script; a text without letters is in every script."""
    names = SCRIPTS.get(script)
    # Once for each different letter: a text has few of them.
    counts: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        counts[_script(letter)] += count
    letters = counts.total() - counts[""]
    return names is None or 2 * sum(counts[name] for name in names) >= letters
