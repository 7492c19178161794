"""What a row's columns mean: the shapes of every data set of the recipe, and of one's own files. Reads nothing.

Shapes, told apart by their columns:
ALMA-Human-Parallel, X-ALMA-Parallel-Data   {"translation": {"de": ..., "en": ...}}
NLLB                                        {"translation": {"deu_Latn": ..., "eng_Latn": ...}}
WMT22-Test, WMT23-Test, FLORES-200          {"de-en": {"de": ..., "en": ...}}
one's own pairs                             {"de": ..., "en": ...} or {"source": ..., "target": ...}, the latter with a
                                            "direction" where a file holds several
OSCAR, one's own documents                  {"text": ...}, or "content" as in OSCAR's own files
ALMA-R-Preference                           {"translation": {"de", "en", "gpt4_de", "alma_de", "ref_de_xcomet", "Delta", ...}}
X-ALMA-Preference, one's own triples        {"source", "chosen", "reject" or "rejected", "directions" or "direction"}
outputs of a system                         {"source", "hypothesis" or "translation" or "output"}, pairs as above, or plain lines
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alma_pipeline import errors
from alma_pipeline.ml.data.readers.lines import BadRow
from alma_pipeline.schema import Language

REJECTED = ("rejected", "reject")
DIRECTION = ("direction", "directions")
OUTPUT = ("hypothesis", "translation", "output")
SYSTEMS = ("ref", "gpt4", "alma")


@dataclass(frozen=True)
class ColumnNames:
    """How columns are called, and which languages there are."""

    columns: Mapping[str, str]
    languages: Mapping[str, Language]
    """Of the run."""
    codes: frozenset[str]
    """Of all languages that a row may name."""

    def text_of(self, row: Mapping[str, Any], *names: str) -> str:
        """The first of these columns that is there. Raises BadRow."""
        for name in names:
            column = self.columns.get(name, name)
            if column in row:
                value = row[column]
                if not isinstance(value, str):
                    raise BadRow(f"column '{column}' holds {value!r}, expected text")
                return value
        expected = " or ".join(f"'{self.columns.get(name, name)}'" for name in names)
        raise BadRow(f"no column {expected}; found {', '.join(map(str, row)) or 'none'}. Name it with data.<source>.columns")

    def names_of(self, code: str) -> tuple[str, ...]:
        """What a language may be called in a column: its code, and NLLB's."""
        language = self.languages.get(code)
        return (code, language.nllb) if language else (code,)

    def check_direction(self, direction: str) -> None:
        """Raises BadRow for what is no direction between two languages of the table."""
        codes = direction.split("-")
        if len(codes) != 2:
            raise BadRow(f"direction '{direction}': expected two languages, as in de-en")
        for code in codes:
            if code not in self.codes:
                raise BadRow(
                    f"direction '{direction}': '{code}' is not in the language table; "
                    f"{errors.suggestion(code, list(self.codes))}. A new language is a line in conf/languages"
                )


def pair(row: Mapping[str, Any], direction: str, part: str, shape: ColumnNames) -> tuple[str, str] | None:
    """(source, target) in `direction`; None for a row of another direction. Raises BadRow.

    `part`: what the file holds: a direction, a language (both directions; `source` is that language), or all.
    """
    source, target = direction.split("-")
    inner = _inner(row, source, target)
    if inner is not None:
        return shape.text_of(inner, *shape.names_of(source)), shape.text_of(inner, *shape.names_of(target))
    stated = next((row[name] for name in DIRECTION if isinstance(row.get(name), str)), None)
    if stated is not None and stated != direction:
        shape.check_direction(stated)
        return None
    if any(shape.columns.get(name, name) in row for name in shape.names_of(source)):
        return shape.text_of(row, *shape.names_of(source)), shape.text_of(row, *shape.names_of(target))
    if "source" not in row and "source" not in shape.columns:
        if part == "all" and "en" in row:  # a TMX file or a table of many languages: not every unit has these two
            return None
        raise _no_language(row, source, target)
    if stated is None and part == "all":
        raise BadRow("no column 'direction', which says what languages 'source' and 'target' are in, as in de-en")
    # A file of one language, or of the direction the other way round, is read from `target` to `source`.
    backwards = stated is None and part in (target, f"{target}-{source}")
    first, second = ("target", "source") if backwards else ("source", "target")
    return shape.text_of(row, first), shape.text_of(row, second)


def output(row: Mapping[str, Any], direction: str, part: str, shape: ColumnNames) -> tuple[str | None, str] | None:
    """(source, what a system made of it); None for the source of a plain line, and for a row of another direction. Raises BadRow.

    A pair of any shape, its target the output; beside `source` the output may also be called by a name of `OUTPUT`.
    """
    if list(row) == ["text"]:
        return None, shape.text_of(row, "text")
    named = next((name for name in OUTPUT if "source" in row and isinstance(row.get(name), str)), None)
    if named:
        row = {name: value for name, value in row.items() if name in ("source", *DIRECTION)} | {"target": row[named]}
    return pair(row, direction, part, shape)


def _no_language(row: Mapping[str, Any], source: str, target: str) -> BadRow:
    return BadRow(
        f"no text in {source} and {target}: found the columns {', '.join(map(str, row)) or 'none'}, expected '{source}' and "
        f"'{target}', 'source' and 'target', or 'translation' with the two in it. Name others with data.<source>.columns"
    )


def _inner(row: Mapping[str, Any], source: str, target: str) -> Mapping[str, Any] | None:
    for name in ("translation", f"{source}-{target}", f"{target}-{source}"):
        value = row.get(name)
        if isinstance(value, Mapping):
            return value
        if name in row:
            raise BadRow(f"column '{name}' holds {value!r}, expected an object with '{source}' and '{target}'")
    return None


def document(row: Mapping[str, Any], shape: ColumnNames) -> str:
    """The text of a document. Raises BadRow."""
    return shape.text_of(row, "text", "content")


@dataclass(frozen=True)
class Triple:
    """A source with a better and a worse translation."""

    source: str
    chosen: str
    rejected: str


def triple(row: Mapping[str, Any], direction: str, shape: ColumnNames, scorer: str) -> Triple | None:
    """The preference in `direction`; None for a row without one. Raises BadRow."""
    nested = row.get("translation")
    if isinstance(nested, Mapping):
        return ranked_triple(nested, direction, shape, scorer)
    stated = shape.text_of(row, *DIRECTION)
    if stated != direction:
        shape.check_direction(stated)
        return None
    return Triple(shape.text_of(row, "source"), shape.text_of(row, "chosen"), shape.text_of(row, *REJECTED))


def ranked_triple(row: Mapping[str, Any], direction: str, shape: ColumnNames, scorer: str) -> Triple | None:
    """A row of ALMA-R-Preference as its authors use it (fe1ixxu/ALMA, preprocess_cpo_data).

    Delta, a human judgement, decides where it is not 0: above 0 GPT-4 beats ALMA, below the other way round. Else the best and
    the worst by `scorer` of reference, GPT-4 and ALMA, the first of equal ones. Not empty, `required_directions` names the
    only direction the row is for; None for any other. Best and worst may be the same text.
    """
    source, target = direction.split("-")
    required = [name.strip() for name in (row.get("required_directions") or "").split(",") if name]
    for name in required:
        shape.check_direction(name)
    if required and direction not in required:
        return None
    texts = {name: shape.text_of(row, target if name == "ref" else f"{name}_{target}") for name in SYSTEMS}
    delta = row.get("Delta") or 0
    if delta:
        best, worst = ("gpt4", "alma") if delta > 0 else ("alma", "gpt4")
    else:
        scores = {name: _score(row, f"{name}_{target}_{scorer}") for name in SYSTEMS}
        best, worst = max(SYSTEMS, key=lambda name: scores[name]), min(SYSTEMS, key=lambda name: scores[name])
    return Triple(shape.text_of(row, source), texts[best], texts[worst])


def _score(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"column '{name}' holds {value!r}, expected a score")
    return float(value)
