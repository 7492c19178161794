"""What `translate` writes: the translations in a file or on standard output, and warnings on standard error."""

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alma_pipeline import output_file
from alma_pipeline.errors import UserError
from alma_pipeline.streams import CLOSED, write_utf8
from alma_pipeline.translation import segments
from alma_pipeline.translation.job import Translation, note
from alma_pipeline.translation.segments import Segment


def check_files(files: list[str], output: Path | None) -> None:
    """Check that the output can be written, and that it is no input. Raises UserError."""
    if output:
        output_file.check(output)
    elif 1 in CLOSED:
        raise UserError("standard output is closed, so the translations would be lost; name a file with --output FILE")
    written = _identity(output) if output else _identity(1)
    for name in files:
        if name != segments.STANDARD_INPUT and written and _identity(Path(name)) == written:
            raise UserError(f"{name} is both read and written; write the translations to another file")


def _identity(file: Path | int) -> tuple[int, int] | None:
    """Device and inode of a regular file; None for pipes, terminals and files that do not exist."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def write(output: Path | None, text: str) -> None:
    """Write the translations. Raises UserError if that fails."""
    kept = "the translations are kept, and the same command with another output writes them without translating again"
    try:
        if output:
            output_file.write(output, text)
        else:
            write_utf8(text)
    except UserError as error:
        raise UserError(f"{error}; {kept}") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output cannot be written: {error.strerror}; {kept}") from error


def rendered(found: list[Segment], made: list[Translation], others: list[str]) -> Iterator[str]:
    """Each segment's line of output. `made` and `others`: translations and found languages of the lines of all segments."""
    rest = zip(made, others, strict=True)
    for segment in found:
        own = list(itertools.islice(rest, len(segment.lines())))
        yield segments.rendered(segment, segment.translated(translation.text for translation, _ in own), _flags(own)) + "\n"


def _flags(own: list[tuple[Translation, str]]) -> Iterator[str]:
    """What is to be known of a translation, as JSON lines have it: `source_looks_like_en`, `source_cut`, `translation_cut`."""
    yield from dict.fromkeys(f"source_looks_like_{other}" for _, other in own if other)
    for name in ("source_cut", "translation_cut"):
        if any(getattr(translation, name) for translation, _ in own):
            yield name


def warn(parents: list[Segment], made: list[Translation], settings: Any) -> None:
    """Warn of cut sources, cut translations and joined lines. `parents`: the segment of each translated line."""
    for name, what, limit in (
        ("source_cut", "lines were cut", "max_source"),
        ("translation_cut", "translations were cut", "max_new_tokens"),
    ):
        if cut := [parent for parent, translation in zip(parents, made, strict=True) if getattr(translation, name)]:
            text = f"{len(cut):,} of {len(made):,} {what} at {getattr(settings, limit)} tokens ({segments.places(cut)})"
            note(f"{text}; raise stages.translate.{limit} to allow more")
    if joined := sum(translation.joined for translation in made):
        note(f"{joined:,} of {len(made):,} translations had several lines, which were joined")
