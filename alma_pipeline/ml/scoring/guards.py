"""Guards: failures of single hypotheses that a good corpus score can hide.

Copied, empty, looping, truncated and wrong-language hypotheses are flagged one by one, so that a rate can be traced to its
sentences. Uses no model.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alma_pipeline.ml.data.language_id import detect_language, is_supported

LOOP_PATTERN = re.compile(r"(.{1,120}?)\1{3,}", re.DOTALL)
"""A stretch of text repeated at least four times in a row."""
MIN_LOOP_CHARACTERS = 12
"""Shortest loop in characters, all repetitions together (our choice): an ellipsis, `haha` and 1000000 are not loops."""


@dataclass(frozen=True)
class GuardFlags:
    """The guards of one hypothesis; None: unknown."""

    exact: bool
    """Equal to the reference."""
    empty: bool
    copy: bool | None
    """Equal to the source; None if the reference equals the source too, as for numbers (B46)."""
    repetition: bool
    """Contains a loop that the reference does not."""
    truncated: bool | None
    """Ended by the limit of new tokens; None for outputs that do not record it."""
    language: str | None
    """The identified language; None if the identifier is not confident."""
    off_target: bool | None
    """Identified as a language other than the target; None if the language is not identified."""


def guard_flags(source: str, reference: str, hypothesis: str, target: str, truncated: bool | None = None) -> GuardFlags:
    """The guards of one hypothesis without line breaks. `target`: code of the target language."""
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
    """Whether the text contains a repetition loop."""
    return any(len(match[0]) >= MIN_LOOP_CHARACTERS for match in LOOP_PATTERN.finditer(text))


def percentage(values: Iterable[bool | None]) -> float | None:
    """Percentage of true values among those that are not None; None if there are none."""
    found = [value for value in values if value is not None]
    return 100 * sum(found) / len(found) if found else None


def length_ratio(hypotheses: Sequence[str], references: Sequence[str]) -> float | None:
    """Characters in all hypotheses divided by characters in all references; None if the references are empty."""
    characters = sum(map(len, references))
    return sum(map(len, hypotheses)) / characters if characters else None
