"""Whether a text is written in the script of the language it is said to be in. Knows no corpus."""

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
