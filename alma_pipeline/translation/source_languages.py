"""Sources in another language than their direction says, by the language identification that cleaning uses."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from alma_pipeline.schema import Language
from alma_pipeline.translation.segments import Segment, places

CONFIDENCE = 0.9
"""Least probability of the other language in the whole line, the same as that of cleaning."""
CUTS, PART_CONFIDENCE = (2, 4), 0.5
"""A line that quotes another language has a part in its own: a half or a quarter, with this probability (our choice)."""


def other_languages(lines: Sequence[tuple[str, str]], languages: Mapping[str, Language]) -> list[str]:
    """For each (direction, line) the language that the line is in instead of its direction's source; empty where it fits.

    Short and mixed lines count as fitting, and so do languages that the table lacks.
    """
    return [_other(line, direction.partition("-")[0], languages) for direction, line in lines]


def _other(line: str, code: str, languages: Mapping[str, Language]) -> str:
    from alma_pipeline.ml.data.language_id import is_language, other_language  # numpy and a model, for this verb alone

    found = other_language(line, code, CONFIDENCE)
    if found not in languages:
        return ""
    return "" if any(is_language(part, code, PART_CONFIDENCE) for cuts in CUTS for part in _parts(line, cuts)) else found


def _parts(line: str, cuts: int) -> list[str]:
    """The line in `cuts` parts of as many words, or of as many characters if it has too few spaces."""
    words = line.split()
    units, joint = (words, " ") if len(words) >= cuts else (list(line), "")
    size = -(-len(units) // cuts)
    return [joint.join(units[start : start + size]) for start in range(0, len(units), size)]


def warnings(segments: Sequence[Segment], found: Sequence[str], languages: Mapping[str, Language]) -> Iterator[str]:
    """A sentence for each pair of an expected and a found language. `found`: the language found for each segment, or empty."""
    sources = Counter(segment.direction.partition("-")[0] for segment in segments)
    pairs: dict[tuple[str, str], list[Segment]] = {}
    for segment, other in zip(segments, found, strict=True):
        if other:
            pairs.setdefault((segment.direction.partition("-")[0], other), []).append(segment)
    for (code, other), those in pairs.items():
        names = f"{languages[other].name}, not {languages[code].name}"
        verb = "looks" if len(those) == 1 else "look"
        yield f"{len(those):,} of {sources[code]:,} sources {verb} like {names} ({places(those)})"
