"""Finds files by a path pattern with {lang}, {direction}, {pair}, {side}, {split} and *. Reads names only, never contents."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.errors import ConfigError

SUFFIX = re.compile(r"(?:\.(?P<format>jsonl|json|tsv|csv|parquet|tmx|txt))?(?P<packing>\.(?:gz|bz2|xz|zst))?$", re.IGNORECASE)
"""Format and compression, from a file's name."""
PACKING = re.compile(r"\.(?:gz|bz2|xz|zst)$", re.IGNORECASE)
NOT_TEXT = re.compile(r"\.(?:zip|7z|rar|tgz|tbz2?|txz|tar(?:\.\w+)?|lz4|lzma|zstd|z|xlsx?|ods|docx?|pdf)$", re.IGNORECASE)
"""Archives, other compressions and office files: their bytes are not lines of text."""
WILDCARD = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]")
LITERAL = ("[*]", "[?]", "[[]")
"""What `glob.escape` makes of a character."""
REVERSE = ("{direction}", "{from_english}")
"""What becomes `{reverse}` where a direction has no text of its own."""


@dataclass(frozen=True)
class Match:
    """The files of a source by what they contain, and the parts without a file."""

    files: dict[str, Path]
    missing: list[str]
    looked: list[str]
    """Patterns that were tried for the first missing part."""
    reversed: list[str]
    """Directions that use the text of the opposite one, which has the only file of the pair."""


@dataclass(frozen=True)
class Places:
    """Where files are looked for: a folder, and the files that were there earlier, which serve where none is left."""

    folder: Path
    earlier: Sequence[Path] = ()

    def files(self, pattern: str) -> list[Path]:
        """The files that match now, sorted."""
        return [Path(path) for path in sorted(glob.glob(self._whole(pattern))) if Path(path).is_file()]

    def files_earlier(self, pattern: str) -> list[Path]:
        """The files that matched earlier, sorted."""
        wanted = re.compile(_regex(self._whole(pattern)))
        return sorted(path for path in self.earlier if wanted.fullmatch(str(path)))

    def matched(self, pattern: str, path: Path) -> tuple[str, ...]:
        """What the wildcards of the pattern matched in a path, without the suffix of a compression."""
        found = re.fullmatch(_regex(self._whole(pattern)), str(path))
        return tuple(PACKING.sub("", text) for text in found.groups()) if found else ()

    def filled_in(self, pattern: str, matched: tuple[str, ...]) -> str:
        """The path that a pattern gives where its wildcards match these texts."""
        texts = iter(matched)
        return WILDCARD.sub(lambda found: found[0][1] if found[0] in LITERAL else next(texts), self._whole(pattern))

    def _whole(self, pattern: str) -> str:
        """The pattern from the root. Folders and files that exist as they are written are no pattern, as in `my[v2].tsv`."""
        parts = (self.folder / Path(pattern).expanduser()).expanduser().absolute().parts
        known, rest = parts[0], list(parts[1:])
        while rest and os.path.exists(os.path.join(known, rest[0])):
            known = os.path.join(known, rest.pop(0))
        return os.path.join(glob.escape(known), *rest)


def _regex(pattern: str) -> str:
    """The pattern as a regular expression with a group for each wildcard."""
    result, end = "", 0
    for found in WILDCARD.finditer(pattern):
        text = found[0]
        inner = "[^/]*" if text[0] == "*" else "[^/]" if text == "?" else fnmatch.translate(text)[len("(?s:") : -len(r")\Z")]
        result += re.escape(pattern[end : found.start()]) + (re.escape(text[1]) if text in LITERAL else f"({inner})")
        end = found.end()
    return result + re.escape(pattern[end:])


def find_files(
    patterns: list[str], parts: list[str], splits: tuple[str, ...], places: Places, otherwise: str = "", reversible: bool = False
) -> Match:
    """The first files of each part that match a pattern.

    `otherwise`: the format of files whose name has no extension. `reversible`: a direction without a file may use that of the
    opposite direction. Raises ConfigError for a format that is not read, and for half a pair of texts.
    """
    files: dict[str, Path] = {}
    missing: list[str] = []
    looked: list[str] = []
    turned: list[str] = []
    opposite = [re.sub("|".join(REVERSE), "{reverse}", pattern) for pattern in patterns if any(map(pattern.count, REVERSE))]
    for part in parts:
        names = _first(patterns, part, splits, places, otherwise)
        if not names and reversible and (names := _first(opposite, part, splits, places, otherwise)):
            turned.append(part)
        files |= names
        if not names:
            missing.append(part)
            looked = looked or [_fill_pattern(pattern, part, split) for split in splits for pattern in patterns]
    return Match(files, missing, looked, turned)


def _first(patterns: list[str], part: str, splits: tuple[str, ...], places: Places, otherwise: str) -> dict[str, Path]:
    """The files of the first pattern that has any, else of the first that had any earlier."""
    for earlier in (False, True) if places.earlier else (False,):
        for split in splits:
            for pattern in patterns:
                if "{from_english}" in pattern and not part.startswith("en-"):
                    continue
                if names := dict(_named(pattern, _fill_pattern(pattern, part, split), part, places, otherwise, earlier)):
                    return names
    return {}


def _reverse(part: str) -> str:
    return "-".join(reversed(part.split("-")))


def _fill_pattern(pattern: str, part: str, split: str) -> str:
    """The pattern for one part, a direction or a language; {side} and * remain."""
    lang = next((code for code in part.split("-") if code != "en"), "en") if "-" in part else part
    pair = "-".join(sorted(part.split("-")))
    values = {"lang": lang, "direction": part, "from_english": part, "reverse": _reverse(part), "pair": pair, "split": split}
    for name, value in values.items():
        pattern = pattern.replace(f"{{{name}}}", value)
    return pattern


def _named(pattern: str, filled: str, part: str, places: Places, otherwise: str, earlier: bool) -> Iterator[tuple[str, Path]]:
    """(name, path) of one part's files; the name says what a file contains: `de.0.jsonl.gz`, `de-en.parquet`, `de-en/de.txt`."""
    holds = _holds(pattern, part)
    # Two parallel files of plain lines, one per side.
    if "{side}" in pattern:
        yield from _sides(filled, part, holds, places, earlier)
        return
    # Otherwise the extension gives the format; several files of one part are numbered.
    paths = places.files_earlier(filled) if earlier else places.files(filled)
    if not earlier:
        _check_distinct(paths)
    for number, path in enumerate(paths):
        _check_text(path)
        suffix = SUFFIX.search(path.name)
        text_format = (suffix and suffix["format"]) or otherwise
        if not suffix or not text_format:
            raise ConfigError(
                [f"{path}: unknown format; expected a name that ends in .jsonl, .json, .tsv, .csv, .parquet, .tmx or .txt"]
            )
        yield f"{holds}{f'.{number}' if len(paths) > 1 else ''}{_suffix(text_format, suffix['packing'])}", path


def _holds(pattern: str, part: str) -> str:
    """What the files of a pattern contain: a direction, the pair of a language and English, or every part."""
    if "{direction}" in pattern or "{from_english}" in pattern:
        return part
    if "{reverse}" in pattern:
        return _reverse(part)
    if "{lang}" in pattern or "{pair}" in pattern:
        return "-".join(sorted(part.split("-"))) if "{side}" in pattern else _fill_pattern("{lang}", part, "")
    return "-".join(sorted(part.split("-"))) if "{side}" in pattern else "all"


def _sides(filled: str, part: str, holds: str, places: Places, earlier: bool) -> Iterator[tuple[str, Path]]:
    """Both texts of a part, shard by shard: shards belong together if `*` matched the same in their paths.

    Raises ConfigError for a text, or a shard, without its other half.
    """
    codes = part.split("-")
    patterns = {side: filled.replace("{side}", side) for side in codes}
    found = {side: _shards(pattern, places, earlier) for side, pattern in patterns.items()}
    # A half that was there earlier serves a finished node; a shard of which both halves are gone is no longer part of the text.
    shards = sorted(found[codes[0]].keys() | found[codes[1]].keys())
    if shards and not earlier:
        before = {side: _shards(pattern, places, True) for side, pattern in patterns.items()}
        for side in codes:
            found[side] |= {key: before[side][key] for key in shards if key in before[side] and key not in found[side]}
    problems = [
        f"{found[one][key]}: no file for its other half; expected {places.filled_in(patterns[other], key)}. Line n of one is the "
        "translation of line n of the other"
        for one, other in ((codes[0], codes[1]), (codes[1], codes[0]))
        for key in sorted(found[one].keys() - found[other].keys())
    ]
    if problems:
        raise ConfigError(problems)
    for number, key in enumerate(shards):
        for side in codes:
            path = found[side][key]
            _check_text(path)
            packing = SUFFIX.search(path.name)["packing"]  # type: ignore[index]
            yield f"{holds}/{side}{f'.{number}' if len(shards) > 1 else ''}{_suffix('txt', packing)}", path


def _shards(pattern: str, places: Places, earlier: bool) -> dict[tuple[str, ...], Path]:
    """One side's files by what the wildcards matched. Raises ConfigError where two files match alike (`a.de` and `a.de.gz`)."""
    found: dict[tuple[str, ...], Path] = {}
    for path in places.files_earlier(pattern) if earlier else places.files(pattern):
        key = places.matched(pattern, path)
        if not earlier and key in found:
            raise ConfigError([_twice(found[key], path)])
        found[key] = path
    return found


def _check_distinct(paths: Sequence[Path]) -> None:
    """Raise ConfigError for a text that is there packed and unpacked: both would be read as shards."""
    known: dict[str, Path] = {}
    for path in paths:
        plain = PACKING.sub("", str(path))
        if plain in known:
            raise ConfigError([_twice(known[plain], path)])
        known[plain] = path


def _twice(one: Path, other: Path) -> str:
    return f"{one} and {other}: the same text twice; remove one, or name it in full"


def _check_text(path: Path) -> None:
    if found := NOT_TEXT.search(path.name):
        raise ConfigError(
            [
                f"{path}: {found[0]} is not read. Unpack or convert it to JSON lines, TSV, CSV, Parquet, TMX or plain text, each "
                "as it is or as .gz, .bz2, .xz or .zst"
            ]
        )


def _suffix(text_format: str, packing: str | None) -> str:
    """The end of a name, which the readers know in lower case."""
    return f".{text_format}{packing or ''}".lower()
