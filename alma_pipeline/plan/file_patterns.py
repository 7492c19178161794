"""Finds files by a path pattern with {lang}, {direction}, {pair}, {side}, {split} and *. Reads names only, never contents."""

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alma_pipeline.errors import ConfigError

SUFFIX = re.compile(r"(?:\.(?P<format>jsonl|json|tsv|csv|parquet|tmx|txt))?(?P<packing>\.(?:gz|bz2|xz|zst))?$")
"""Format and compression, from a file's name."""


@dataclass(frozen=True)
class Match:
    """The files of a source by what they contain, and the parts without a file."""

    files: dict[str, Path]
    missing: list[str]
    looked: list[str]
    """Patterns that were tried for the first missing part."""


def find_files(patterns: list[str], parts: list[str], splits: tuple[str, ...], folder: Path, otherwise: str = "") -> Match:
    """The first files of each part that match a pattern. `otherwise`: the format of files whose name has no extension."""
    files: dict[str, Path] = {}
    missing: list[str] = []
    looked: list[str] = []
    for part in parts:
        tried = [
            (pattern, filled) for split in splits for pattern in patterns for filled in [_fill_pattern(pattern, part, split)]
        ]
        for pattern, filled in tried:
            names = dict(_named(pattern, filled, part, folder, otherwise))
            if names:
                files |= names
                break
        else:
            missing.append(part)
            looked = looked or [filled for _, filled in tried]
    return Match(files, missing, looked)


def _fill_pattern(pattern: str, part: str, split: str) -> str:
    """The pattern for one part, a direction or a language; {side} and * remain."""
    lang = next((code for code in part.split("-") if code != "en"), "en") if "-" in part else part
    pair = "-".join(sorted(part.split("-")))
    for name, value in (("lang", lang), ("direction", part), ("pair", pair), ("split", split)):
        pattern = pattern.replace(f"{{{name}}}", value)
    return pattern


def _named(pattern: str, filled: str, part: str, folder: Path, otherwise: str) -> Iterator[tuple[str, Path]]:
    """(name, path) of one part's files; the name says what a file contains: `de.0.jsonl.gz`, `de-en.parquet`, `de-en/de.txt`."""
    # A pattern with a direction, a pair or a language finds files of that part; any other file contains all of them.
    one_language = "{lang}" in pattern or "{pair}" in pattern
    holds = part if "{direction}" in pattern else _fill_pattern("{lang}", part, "") if one_language else "all"
    # Two parallel files of plain lines, one per side.
    if "{side}" in pattern:
        for side in part.split("-"):
            for path in _glob(folder, filled.replace("{side}", side)):
                yield f"{'-'.join(sorted(part.split('-')))}/{side}.txt{SUFFIX.search(path.name)['packing'] or ''}", path  # type: ignore[index]
        return
    # Otherwise the extension gives the format; several files of one part are numbered.
    paths = _glob(folder, filled)
    for number, path in enumerate(paths):
        suffix = SUFFIX.search(path.name)
        text_format = (suffix and suffix["format"]) or otherwise
        if not suffix or not text_format:
            raise ConfigError(
                [f"{path}: unknown format; expected a name that ends in .jsonl, .json, .tsv, .csv, .parquet, .tmx or .txt"]
            )
        yield f"{holds}{f'.{number}' if len(paths) > 1 else ''}.{text_format}{suffix['packing'] or ''}", path


def _glob(folder: Path, pattern: str) -> list[Path]:
    whole = pattern if Path(pattern).is_absolute() else str(Path(glob.escape(str(folder))) / pattern)
    return [Path(path).absolute() for path in sorted(glob.glob(str(Path(whole).expanduser()))) if Path(path).is_file()]
