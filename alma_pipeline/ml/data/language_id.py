"""Detects the language of a text (py3langid's naive Bayes over byte n-grams, after Lui and Baldwin 2012) and its script."""

import functools
import unicodedata
from collections import Counter

from py3langid.langid import MODEL_FILE, LanguageIdentifier

MIN_PROBABILITY = 0.5
"""Below this, no language is detected (our choice). Dates and numbers, which look alike in every language, stay below it."""
SAME_LANGUAGE = {"nn": "no", "wuu": "zh", "yue": "zh", "ary": "ar", "arz": "ar", "uzs": "uz"}
"""Varieties that the recipe treats as one language."""
NO_LANGUAGE = "zxx"
"""The ISO 639 code for no linguistic content."""
CONFUSABLE = ({"id", "ms"}, {"no", "nn", "da"}, {"sr", "hr", "bs"}, {"cs", "sk"}, {"gl", "pt"}, {"az", "tr"}, {"kk", "ky"})
"""Languages that a single sentence does not tell apart: a row detected as one of its siblings is kept (our choice)."""
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
"""Script of an NLLB code to the first words of its letters' Unicode names."""


def detect_language(text: str) -> str | None:
    """The language code of the text; None if it cannot be detected, as for a few words or numbers."""
    shares: dict[str, float] = {}
    for code, share in _identifier().rank(text):
        name = SAME_LANGUAGE.get(code, code)
        shares[name] = shares.get(name, 0.0) + share
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= MIN_PROBABILITY and best != NO_LANGUAGE else None


def is_other_language(text: str, code: str, confidence: float) -> bool:
    """Whether the text is in a language other than `code` with a probability of at least `confidence`.

    Always False for a language that the model does not know.
    """
    return bool(other_language(text, code, confidence))


def other_language(text: str, code: str, confidence: float) -> str:
    """The language other than `code` that the text is in with a probability of at least `confidence`; empty if there is none."""
    if not is_supported(code):
        return ""
    found, probability = _identifier().classify(text)
    alike = any({found, code} <= siblings for siblings in CONFUSABLE)
    return str(found) if found != code and not alike and probability >= confidence else ""


def is_language(text: str, code: str, confidence: float) -> bool:
    """Whether the text is in this language with a probability of at least `confidence`."""
    found, probability = _identifier().classify(text)
    return bool(found == code and probability >= confidence)


def is_supported(code: str) -> bool:
    """Whether the model knows this language."""
    return code in _codes()


@functools.cache
def _identifier() -> LanguageIdentifier:
    """The model, loaded once. It ships with the package and covers more than the 50 languages of X-ALMA."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _codes() -> frozenset[str]:
    return frozenset(_identifier().labels)


@functools.lru_cache(maxsize=70_000)
def _script(letter: str) -> str:
    """The first word of a letter's Unicode name, or of a vowel sign's; empty for other characters."""
    script = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    # The marks of other scripts are called after what they are: COMBINING ACUTE ACCENT.
    is_sign = unicodedata.category(letter)[0] == "M" and any(script in names for names in SCRIPTS.values())
    return script if letter.isalpha() or is_sign else ""


def in_script(text: str, script: str) -> bool:
    """Whether at least half of the letters are in the script. True for a text without letters and for an unknown script."""
    names = SCRIPTS.get(script)
    # Look up each distinct letter once: a text has few of them.
    counts: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        counts[_script(letter)] += count
    letters = counts.total() - counts[""]
    return names is None or 2 * sum(counts[name] for name in names) >= letters
