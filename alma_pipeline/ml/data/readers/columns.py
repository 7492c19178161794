"""Interprets the columns of a row, for every data set of the recipe and for user files. Reads nothing.

The layouts, recognised by their columns:
ALMA-Human-Parallel, X-ALMA-Parallel-Data   {"translation": {"de": ..., "en": ...}}
NLLB                                        {"translation": {"deu_Latn": ..., "eng_Latn": ...}}
WMT22-Test, WMT23-Test, FLORES-200          {"de-en": {"de": ..., "en": ...}}
user pairs                                  {"de": ..., "en": ...} or {"source": ..., "target": ...}, the latter with a
                                            "direction" if a file has several
OSCAR, user documents                       {"text": ...}, or "content" as in OSCAR's own files
ALMA-R-Preference                           {"translation": {"de", "en", "gpt4_de", "alma_de", "ref_de_xcomet", "Delta", ...}}
X-ALMA-Preference, user triples             {"source", "chosen", "reject" or "rejected", "directions" or "direction"}
system outputs                              {"source", "hypothesis" or "translation" or "output"}, pairs as above, or plain lines
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alma_pipeline import errors
from alma_pipeline.ml.data.readers.lines import check_characters
from alma_pipeline.ml.data.readers.raw_rows import CONTROL, BadRow, shortened
from alma_pipeline.schema import Language

REJECTED = ("rejected", "reject")
DIRECTION = ("direction", "directions")
OUTPUT = ("hypothesis", "translation", "output")
SYSTEMS = ("ref", "gpt4", "alma")
TAG = re.compile(r"([A-Za-z]{2,3})[-_](?:[A-Z]{2}|[A-Z][a-z]{3})")
"""A language with a country or a script: `de-DE`, `zh_Hans`."""
COLUMNS = ("source", "target", "text", "content", "translation", "hypothesis", "output", "chosen", *REJECTED, *DIRECTION)


class NoColumn(BadRow):
    """A row without the column that was looked for."""


@dataclass(frozen=True)
class ColumnNames:
    """The names of columns, and the known languages."""

    columns: Mapping[str, str]
    languages: Mapping[str, Language]
    """Languages of the run."""
    codes: frozenset[str]
    """Codes of all languages that a row may name."""
    setting: str = ""
    """The key of the source, such as `data.parallel`; empty if its columns cannot be named."""
    example: Mapping[str, str] = field(default_factory=dict)
    """What to set `columns` to for a table without a header."""
    changed: Counter[str] = field(default_factory=Counter)
    """Counts texts that lost characters: control."""

    def text_of(self, row: Mapping[str, Any], *names: str) -> str:
        """The text in the first of these columns that exists, without control characters.

        A name that differs in case alone counts where no other does. Raises NoColumn if none exists, BadRow if it holds no text.
        """
        for name in names:
            column = self.columns.get(name, name)
            if column in row:
                value = row[column]
                if not isinstance(value, str):
                    raise BadRow(f"column '{column}' is {shortened(repr(value))}, expected text")
                return value if value.isprintable() else self._whole(value, column)
        if (respelt := self.respelt(row)) is not None:
            return self.text_of(respelt, *names)
        expected = " or ".join(f"'{self.columns.get(name, name)}'" for name in names)
        raise NoColumn(f"no column {expected}; found {_named(row)}{self.advice()}")

    def advice(self) -> str:
        """How to name columns, as the end of a sentence."""
        if not self.setting:
            return ""
        names = ", ".join(f"{name}: NAME" for name in self.example)
        numbers = ", ".join(f"{name}: {number}" for name, number in self.example.items())
        return (
            f". Name other columns with '{self.setting}.columns={{{names}}}', or number those of a table without a header, as in "
            f"'{self.setting}.columns={{{numbers}}}'"
        )

    def respelt(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The row with the names of known columns as they are written here; None if there is nothing to change, or no one way.

        `DE` and `de-DE` are de; `Source` is source.
        """
        known = {name.casefold(): name for name in COLUMNS} | {name.casefold(): name for name in self.columns.values()}
        for code, language in self.languages.items():
            known |= {name.casefold(): code for name in (code, language.nllb)}
        new = []
        for name in map(str, row):
            tag = TAG.fullmatch(name)
            new.append(known.get(name.strip().casefold()) or (tag and known.get(tag[1].casefold())) or name)
        return dict(zip(new, row.values(), strict=True)) if new != list(row) and len(set(new)) == len(new) else None

    def _whole(self, text: str, column: str) -> str:
        """The text without control characters. Raises BadRow if it holds half a character."""
        kept = CONTROL.sub("", check_characters(text, f"column '{shortened(column)}'"))
        self.changed["control"] += kept != text
        return kept

    def has(self, row: Mapping[str, Any], code: str) -> bool:
        """Whether the row has a column of this language."""
        return any(self.columns.get(name, name) in row for name in self.names_of(code))

    def names_of(self, code: str) -> tuple[str, ...]:
        """The names of a language's column: its code, and its NLLB code."""
        language = self.languages.get(code)
        return (code, language.nllb) if language else (code,)

    def check_direction(self, direction: str) -> None:
        """Raises BadRow unless `direction` names two known languages."""
        codes = direction.split("-")
        if len(codes) != 2:
            raise BadRow(f"direction '{shortened(direction)}': expected two languages, as in de-en")
        for code in codes:
            if code not in self.codes:
                raise BadRow(
                    f"direction '{shortened(direction)}': '{shortened(code)}' is not in the language table; "
                    f"{errors.suggestion(code, list(self.codes))}. A new language is a line in conf/languages"
                )


def pair(row: Mapping[str, Any], direction: str, part: str, names: ColumnNames) -> tuple[str, str] | None:
    """(source, target) in `direction`; None for a row of another direction. Raises BadRow.

    `part`: what the file contains: a direction, a language (both directions; `source` is that language), or all.
    """
    source, target = direction.split("-")
    # Most data sets nest the two texts in one column, by language.
    inner = _inner(row, source, target)
    if inner is not None:
        return names.text_of(inner, *names.names_of(source)), names.text_of(inner, *names.names_of(target))
    # A file of several directions states each row's; rows of the others are skipped.
    stated = next((row[name] for name in DIRECTION if isinstance(row.get(name), str)), None)
    if stated is not None and stated != direction:
        names.check_direction(stated)
        return None
    # Columns named for the two languages.
    if names.has(row, source):
        # In a TMX file or a table of many languages, not every row has these two.
        if part == "all" and not names.has(row, target) and sum(code in row for code in names.codes) > 1:
            return None
        return names.text_of(row, *names.names_of(source)), names.text_of(row, *names.names_of(target))
    if "source" not in row and "source" not in names.columns:
        if (respelt := names.respelt(row)) is not None:
            return pair(respelt, direction, part, names)
        if part == "all" and "en" in row:
            return None
        raise _no_language(row, source, target, names)
    if stated is None and part == "all":
        raise BadRow("no column 'direction'; expected one with the languages of 'source' and 'target', as in de-en")
    # In a file of one language or of the reverse direction, `source` is the text to translate into.
    backwards = stated is None and part in (target, f"{target}-{source}")
    first, second = ("target", "source") if backwards else ("source", "target")
    return names.text_of(row, first), names.text_of(row, second)


def output(row: Mapping[str, Any], direction: str, part: str, names: ColumnNames) -> tuple[str | None, str] | None:
    """(source, output) of a system; the source is None for a line of plain text. None for a row of another direction.

    Accepts pairs of any layout, with the output as target; next to `source`, the output may have a name in `OUTPUT`. Raises
    BadRow.
    """
    if list(row) == ["text"]:
        return None, names.text_of(row, "text")
    named = next((name for name in OUTPUT if "source" in row and isinstance(row.get(name), str)), None)
    if named:
        row = {name: value for name, value in row.items() if name in ("source", *DIRECTION)} | {"target": row[named]}
    return pair(row, direction, part, names)


def _named(row: Mapping[str, Any]) -> str:
    """The columns of a row, in a message."""
    return shortened(", ".join(map(str, row)) or "none")


def _no_language(row: Mapping[str, Any], source: str, target: str, names: ColumnNames) -> NoColumn:
    return NoColumn(
        f"no text in {source} and {target}: found the columns {_named(row)}, expected '{source}' and "
        f"'{target}', 'source' and 'target', or 'translation' with both{names.advice()}"
    )


def _inner(row: Mapping[str, Any], source: str, target: str) -> Mapping[str, Any] | None:
    for name in ("translation", f"{source}-{target}", f"{target}-{source}"):
        value = row.get(name)
        if isinstance(value, Mapping):
            return value
        if name in row:
            raise BadRow(f"column '{name}' is {shortened(repr(value))}, expected an object with '{source}' and '{target}'")
    return None


def document(row: Mapping[str, Any], names: ColumnNames) -> str:
    """The text of a document. Raises BadRow."""
    return names.text_of(row, "text", "content")


@dataclass(frozen=True)
class Triple:
    """A source with a better and a worse translation."""

    source: str
    chosen: str
    rejected: str


def triple(row: Mapping[str, Any], direction: str, names: ColumnNames, scorer: str) -> Triple | None:
    """The preference in `direction`; None for a row without one. Raises BadRow."""
    nested = row.get("translation")
    if isinstance(nested, Mapping):
        return ranked_triple(nested, direction, names, scorer)
    stated = names.text_of(row, *DIRECTION)
    if stated != direction:
        names.check_direction(stated)
        return None
    return Triple(names.text_of(row, "source"), names.text_of(row, "chosen"), names.text_of(row, *REJECTED))


def ranked_triple(row: Mapping[str, Any], direction: str, names: ColumnNames, scorer: str) -> Triple | None:
    """A row of ALMA-R-Preference, used as its authors do (fe1ixxu/ALMA, preprocess_cpo_data).

    A Delta other than 0, a human judgement, decides: GPT-4 beats ALMA above 0, and ALMA beats GPT-4 below. Otherwise the best
    and the worst of reference, GPT-4 and ALMA by `scorer`, the first of equals; the two may be the same text. If
    `required_directions` is not empty, it names the only direction of the row; None for any other. Raises BadRow.
    """
    source, target = direction.split("-")
    required = [name.strip() for name in (row.get("required_directions") or "").split(",") if name]
    for name in required:
        names.check_direction(name)
    if required and direction not in required:
        return None
    # The reference's column is the language itself, the systems' are `gpt4_de` and `alma_de`.
    texts = {name: names.text_of(row, target if name == "ref" else f"{name}_{target}") for name in SYSTEMS}
    delta = row.get("Delta") or 0
    if delta:
        best, worst = ("gpt4", "alma") if delta > 0 else ("alma", "gpt4")
    else:
        scores = {name: _score(row, f"{name}_{target}_{scorer}") for name in SYSTEMS}
        best, worst = max(SYSTEMS, key=lambda name: scores[name]), min(SYSTEMS, key=lambda name: scores[name])
    return Triple(names.text_of(row, source), texts[best], texts[worst])


def _score(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"column '{name}' is {shortened(repr(value))}, expected a score")
    return float(value)
