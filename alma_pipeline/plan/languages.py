"""The languages, directions and groups of a run: `data.languages`, `directions` and `group`, resolved once. Reads no data."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.schema import Config

GROUP = re.compile(r"g([1-8])")


@dataclass(frozen=True)
class Languages:
    """The languages of a run besides English, its directions and its language groups."""

    codes: list[str]
    """In the order of `data.languages`."""
    directions: list[str]
    """Those the user selected, in the order of `data.languages`."""
    groups: list[int]
    """Groups that take part, ascending."""
    group_of: dict[str, int]
    """Code to group, for every code in `codes`."""

    def codes_of(self, group: int | None) -> list[str]:
        """The languages of one group; of the whole run for None."""
        return [code for code in self.codes if group is None or self.group_of[code] == group]

    def directions_of(self, group: int | None) -> list[str]:
        """The directions between English and the languages of one group; of the whole run for None."""
        codes = {"en", *self.codes_of(group)}
        return [direction for direction in self.directions if set(direction.split("-")) <= codes]


def resolve(config: Config) -> Languages:
    """Resolve the languages of a run. Raises ConfigError for unknown directions and groups without a language."""
    directions = _directions(config)
    mentioned = {code for direction in directions for code in direction.split("-")}
    codes = [code for code in config.data.languages if code in mentioned]
    group_of = {code: config.languages[code].group for code in codes}
    return Languages(codes, directions, _groups(config, sorted(set(group_of.values()))), group_of)


def both_ways(codes: list[str]) -> list[str]:
    """The directions of each language into English and out of it."""
    return [direction for code in codes for direction in (f"{code}-en", f"en-{code}")]


def _groups(config: Config, present: list[int]) -> list[int]:
    if config.group == "all":
        return present
    requested = config.group if isinstance(config.group, list) else [config.group]
    wrong = [group for group in requested if type(group) is not int or group not in present]
    if wrong or not requested:
        found = ", ".join(map(str, wrong)) or "an empty list"
        raise ConfigError(
            [f"group={found}: expected all or some of {', '.join(map(str, present))}, the groups of the run's languages"]
        )
    return sorted(set(requested))


def _directions(config: Config) -> list[str]:
    available = both_ways(config.data.languages)
    words = _words(config.directions)
    if words == ["all"]:
        return available
    problems = [text for word in words for text in _problems(word, config)]
    if problems or not words:
        raise ConfigError(problems or ["directions is empty; expected all, or some of " + ", ".join(available)])
    selected = {direction for word in words for direction in _expand(word, config)}
    return [direction for direction in available if direction in selected]


def _words(value: Any) -> list[str]:
    words = value if isinstance(value, list) else str(value).split(",")
    return [str(word).strip() for word in words]


def _expand(word: str, config: Config) -> list[str]:
    """The directions of a group; any other word is a direction itself."""
    group = GROUP.fullmatch(word)
    if not group:
        return [word]
    return both_ways([code for code in config.data.languages if config.languages[code].group == int(group[1])])


def _problems(word: str, config: Config) -> Iterator[str]:
    languages = ", ".join(config.data.languages)
    if GROUP.fullmatch(word):
        if not _expand(word, config):
            yield f"directions: no language of {word} is in data.languages ({languages})"
        return
    codes = word.split("-")
    if len(codes) != 2 or "en" not in codes or codes == ["en", "en"]:
        yield (
            f"directions: '{word}' is not a direction; expected all, a group such as g5, or a language and English, "
            "such as de-en or en-de"
        )
        return
    for code in codes:
        if code not in config.languages:
            nearest = errors.suggestion(code, list(config.languages))
            yield f"directions: '{code}' in {word} is not in the language table; {nearest}"
        elif code != "en" and code not in config.data.languages:
            yield f"directions: {word}, but '{code}' is not in data.languages ({languages}); add it there"
