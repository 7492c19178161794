"""Which language a text is in, as far as can be told: py3langid's naive Bayes over byte n-grams (after Lui and Baldwin 2012)."""

import functools

from py3langid.langid import MODEL_FILE, LanguageIdentifier

SURE = 0.5
"""Probability from which a language counts as told (our choice). Dates and numbers, which are alike everywhere, stay below."""
KIN = {"nn": "no", "wuu": "zh", "yue": "zh", "ary": "ar", "arz": "ar", "uzs": "uz"}
"""Written forms that are one language to the recipe."""
NOTHING = "zxx"
"""ISO 639 for no language at all."""


def language(text: str) -> str | None:
    """The code of the text's language; None where it cannot be told, as of a few words or numbers."""
    shares: dict[str, float] = {}
    for code, share in _identifier().rank(text):
        name = KIN.get(code, code)
        shares[name] = shares.get(name, 0.0) + share
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= SURE and best != NOTHING else None


def known(code: str) -> bool:
    """Whether texts in this language can be recognised at all."""
    return code in _identifier().labels


@functools.cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
