"""Whether a text is in the language it is said to be in, by its script and by py3langid. Knows no corpus."""

import functools
import unicodedata
from collections import Counter

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
SIBLINGS = ({"id", "ms"}, {"no", "nn", "da"}, {"sr", "hr", "bs"}, {"cs", "sk"}, {"gl", "pt"}, {"az", "tr"}, {"kk", "ky"})
"""Languages an identifier mixes up in a single sentence: to be taken for a sibling is no reason to go (our choice)."""


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


class Identifier:
    """py3langid (langid.py of Lui and Baldwin 2012, its model renewed and in the package): all 50 languages of X-ALMA."""

    def __init__(self, confidence: float) -> None:
        """`confidence`: the probability from which a text counts as being in another language."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._known = set(self._identifier.labels)
        self.confidence = confidence

    def is_other(self, text: str, code: str) -> bool:
        """Whether the text is, surely enough, in another language than `code`. A language it does not know is never doubted."""
        if code not in self._known:
            return False
        found, probability = self._identifier.classify(text)
        alike = any({found, code} <= siblings for siblings in SIBLINGS)
        return bool(found != code and not alike and probability >= self.confidence)
