"""Turns a setting as a person types it into one that Hydra parses: a value that can only be text is quoted."""

import re
import shlex

PATTERN = re.compile(r"\{(lang|direction|pair|side|nllb)\}")
"""Placeholders in `data.<source>.path` and `config`."""
HARMLESS = re.compile(r"[\w./:+@*?%-]*", re.ASCII)
"""Values that Hydra reads without quotes."""
NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d+)?|true|false|nan|inf", re.IGNORECASE)
WORDS = re.compile(r"\.(revision|repo|root|path|experiment|version)=|\.outputs\.")
"""Settings whose value is text even if it looks like a number: the version 0.10 is not 0.1."""
NAMED = re.compile(r"(\+*(?:evaluation|stages\.\w+|groups\.g\d\.\w+)\.outputs)\.([^=]*\.[^=]*)=(.*)", re.DOTALL)
"""A system's outputs whose name holds dots, which Hydra would take for further keys: `evaluation.outputs.gpt-4.1=o.txt`."""
SYSTEMS = re.compile(r"\+*(evaluation|stages\.\w+|groups\.g\d\.\w+)\.outputs\.")
SINGLE, DOUBLE = "'", '"'
OPENING, CLOSING = "[{(", "]})"


def for_single_run(override: str) -> str:
    """A setting of a single run, as Hydra takes it."""
    return as_text(as_list(override))


def as_list(override: str) -> str:
    """`directions=de-en,en-de` as the list it means in a single run; Hydra would take the comma for a sweep."""
    name, _, value = override.partition("=")
    return f"{name}=[{value}]" if name == "directions" and "," in value and not value.startswith("[") else override


def as_text(override: str) -> str:
    """A setting whose value Hydra takes as it was meant: quoted where it can only be text, unchanged everywhere else.

    `data.parallel.path=my/{lang}-en.tsv` is a text, not a mapping; so are `data.root=~/texts`, `it's`, and `d/R&D.tsv`.
    """
    name, equals, value = override.partition("=")
    if not equals or not name:
        return override
    if named := NAMED.fullmatch(override):
        return f"{named[1]}=" + ",".join(f"{{{named[2]}: {_text(part)}}}" for part in split(named[3]))
    if WORDS.search(f"{name}=") and NUMBER.fullmatch(value):
        return f"{name}={quoted(value)}"
    return override if HARMLESS.fullmatch(value) else f"{name}={_readable(value)}"


def for_shell(override: str) -> str:
    """A setting with its whole value as one text, quoted so that it can be pasted into a shell."""
    name, _, value = override.partition("=")
    return shlex.quote(f"{name}={quoted(value, first=DOUBLE)}")


def unreadable(override: str) -> str:
    """The message for a word that Hydra cannot read."""
    name, equals, value = override.partition("=")
    if not equals or not name or not _reads(f"{name}=null"):
        named = ", with the name of a system of letters, digits, -, +, _ and dots" if SYSTEMS.match(name) else ""
        return f"{override}: not a setting; expected GROUP=OPTION or KEY=VALUE{named}"
    return f"{override}: {value} is neither a value, a list nor a mapping; as a text it is written {for_shell(override)}"


def quoted(text: str, first: str = SINGLE) -> str:
    """A text in quotes that Hydra reads back as it is. `first`: the quotes to take unless the text has some of these only."""
    other = DOUBLE if first == SINGLE else SINGLE
    mark = other if first in text and other not in text else first
    # A backslash means itself, except before a quote; one at the end is before the closing one.
    escaped = re.sub(rf"(\\*){mark}", lambda found: found[1] * 2 + "\\" + mark, text)
    ending = len(text) - len(text.rstrip("\\"))
    return mark + escaped + "\\" * ending + mark


def _readable(value: str) -> str:
    """The value, or where Hydra would not read it, the same with its texts in quotes; sweeps and lists part by part."""
    if value.startswith("[") and value.endswith("]"):
        parts = split(value[1:-1])
        return value if _parses(value) else f"[{','.join(_text(part.strip()) for part in parts)}]"
    return ",".join(_text(part) for part in split(value))


def _text(value: str) -> str:
    """One value: as typed if it is quoted, a list, a mapping or an interpolation, or if Hydra reads it; else in quotes."""
    if "{" in value and (value[0] not in "{[\"'$" or PATTERN.match(value)):
        return quoted(value)  # a placeholder
    if HARMLESS.fullmatch(value) or value[0] in "{[$" or (value[0] in SINGLE + DOUBLE and value[1:].endswith(value[0])):
        return value
    return value if _parses(value) else quoted(value)


def split(value: str) -> list[str]:
    """The parts of a value between commas, but not between those inside brackets or quotes."""
    parts, depth, mark = [""], 0, ""
    for place, letter in enumerate(value):
        if letter == "," and depth <= 0 and not mark:
            parts.append("")
            continue
        if mark:
            mark = "" if letter == mark and value[place - 1] != "\\" else mark
        elif letter in "\"'" and not parts[-1].strip():
            mark = letter  # a quote inside a word, as in it's, is a letter
        depth += (letter in OPENING) - (letter in CLOSING) if not mark else 0
        parts[-1] += letter
    return parts


def _parses(value: str) -> bool:
    """Whether Hydra reads a value without quotes. An unknown function is text: `a b (1)`."""
    return _reads(f"key={value}")


def _reads(override: str) -> bool:
    """Whether Hydra reads a whole setting."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def is_hydras(override: str) -> bool:
    """Whether it sets Hydra itself: `hydra.sweep.dir=...`, `hydra/sweeper=...`."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))
