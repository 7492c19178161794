"""What unmasks a good score: copied, empty, looping, cut-off and wrong-language hypotheses.

Each is a property of one hypothesis, so that a rate can be traced to its sentences. Strings in, no model.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alma_pipeline.ml.data.language_id import detect_language, is_supported

LOOP_PATTERN = re.compile(r"(.{1,120}?)\1{3,}", re.DOTALL)
"""A stretch of text that stands four times in a row or more."""
MIN_LOOP_CHARACTERS = 12
"""So many of them in all make a loop (our choice): an ellipsis, `haha` and 1000000 are none."""


@dataclass(frozen=True)
class GuardFlags:
    """Of one hypothesis. None: cannot be told."""

    exact: bool
    """Equal to the reference."""
    empty: bool
    copy: bool | None
    """Equal to the source; None where the source is its own reference, as numbers are (B46)."""
    repetition: bool
    """Holds a loop that its reference does not."""
    truncated: bool | None
    """Ended by the limit of new tokens; None for outputs that came without the news of it."""
    language: str | None
    """What it is written in, as far as can be told."""
    off_target: bool | None
    """Written in another language than asked for; None where the language cannot be told."""


def guard_flags(source: str, reference: str, hypothesis: str, target: str, truncated: bool | None = None) -> GuardFlags:
    """All of them for one hypothesis, line breaks already removed. `target`: the language asked for."""
    found = detect_language(hypothesis)
    return GuardFlags(
        exact=hypothesis == reference,
        empty=not hypothesis.strip(),
        copy=None if source == reference else hypothesis == source,
        repetition=has_loop(hypothesis) and not has_loop(reference),
        truncated=truncated,
        language=found,
        off_target=None if found is None or not is_supported(target) else found != target,
    )


def has_loop(text: str) -> bool:
    """Whether something is said over and over without end."""
    return any(len(match[0]) >= MIN_LOOP_CHARACTERS for match in LOOP_PATTERN.finditer(text))


def percentage(values: Iterable[bool | None]) -> float | None:
    """% of those that can be told; None where none can."""
    told = [value for value in values if value is not None]
    return 100 * sum(told) / len(told) if told else None


def length_ratio(hypotheses: Sequence[str], references: Sequence[str]) -> float | None:
    """Characters of all hypotheses over those of all references; None where the references are empty."""
    characters = sum(map(len, references))
    return sum(map(len, hypotheses)) / characters if characters else None
