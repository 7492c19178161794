"""Which language a text is in, as far as can be told: py3langid's naive Bayes over byte n-grams (after Lui and Baldwin 2012).

Scripts are the business of `scripts`. Knows no corpus.
"""

import functools

from py3langid.langid import MODEL_FILE, LanguageIdentifier

SURE = 0.5
"""Probability from which a language counts as told (our choice). Dates and numbers, which are alike everywhere, stay below."""
KIN = {"nn": "no", "wuu": "zh", "yue": "zh", "ary": "ar", "arz": "ar", "uzs": "uz"}
"""Written forms that are one language to the recipe."""
NOTHING = "zxx"
"""ISO 639 for no language at all."""
SIBLINGS = ({"id", "ms"}, {"no", "nn", "da"}, {"sr", "hr", "bs"}, {"cs", "sk"}, {"gl", "pt"}, {"az", "tr"}, {"kk", "ky"})
"""Languages that are mixed up in a single sentence: to be taken for a sibling is no reason to go (our choice)."""


def language(text: str) -> str | None:
    """The code of the text's language; None where it cannot be told, as of a few words or numbers."""
    shares: dict[str, float] = {}
    for code, share in _identifier().rank(text):
        name = KIN.get(code, code)
        shares[name] = shares.get(name, 0.0) + share
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= SURE and best != NOTHING else None


def is_other(text: str, code: str, confidence: float) -> bool:
    """Whether the text is in another language than `code` with a probability of at least `confidence`.

    A language that cannot be recognised is never doubted.
    """
    if not known(code):
        return False
    found, probability = _identifier().classify(text)
    alike = any({found, code} <= siblings for siblings in SIBLINGS)
    return bool(found != code and not alike and probability >= confidence)


def known(code: str) -> bool:
    """Whether texts in this language can be recognised at all."""
    return code in _codes()


@functools.cache
def _identifier() -> LanguageIdentifier:
    """Read once: the model is all 50 languages of X-ALMA and more, in the package."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _codes() -> frozenset[str]:
    return frozenset(_identifier().labels)
