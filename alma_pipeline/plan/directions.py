"""Which directions a run is about: `directions=` against the languages there are. Reads no data."""

import re
from collections.abc import Iterator
from typing import Any

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.schema import Config

GROUP = re.compile(r"g([1-8])")


def every(codes: list[str]) -> list[str]:
    """Each language into English and out of it."""
    return [direction for code in codes for direction in (f"{code}-en", f"en-{code}")]


def chosen(config: Config) -> list[str]:
    """The directions of the run, in the order of `data.languages`. Raises ConfigError for all that are none of them."""
    available = every(config.data.languages)
    words = _words(config.directions)
    if words == ["all"]:
        return available
    problems = [text for word in words for text in _problems(word, config)]
    if problems or not words:
        raise ConfigError(problems or ["directions is empty; expected all, or some of " + ", ".join(available)])
    wanted = {direction for word in words for direction in _meant(word, config)}
    return [direction for direction in available if direction in wanted]


def languages(config: Config) -> list[str]:
    """The languages beside English that the directions are about, in the order of `data.languages`."""
    found = {code for direction in chosen(config) for code in direction.split("-")}
    return [code for code in config.data.languages if code in found]


def _words(value: Any) -> list[str]:
    words = value if isinstance(value, list) else str(value).split(",")
    return [str(word).strip() for word in words]


def _meant(word: str, config: Config) -> list[str]:
    group = GROUP.fullmatch(word)
    if not group:
        return [word]
    return every([code for code in config.data.languages if config.languages[code].group == int(group[1])])


def _problems(word: str, config: Config) -> Iterator[str]:
    if GROUP.fullmatch(word):
        if not _meant(word, config):
            yield f"directions: {word} has no language among data.languages ({', '.join(config.data.languages)})"
        return
    codes = word.split("-")
    if len(codes) != 2 or "en" not in codes or codes == ["en", "en"]:
        yield f"directions: '{word}' is none; expected all, a group as g5, or a language and English as in de-en or en-de"
        return
    for code in codes:
        if code not in config.languages:
            yield f"directions: '{code}' in {word} is not in the language table; {errors.nearest(code, list(config.languages))}"
        elif code != "en" and code not in config.data.languages:
            yield f"directions: {word}, but '{code}' is not in data.languages ({', '.join(config.data.languages)}); add it there"
