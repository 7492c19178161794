"""A setting as a person types it to one that Hydra parses."""

import re

PATTERN = re.compile(r"\{(lang|direction|pair|side|nllb)\}")
"""What stands for a part of the text in `data.<source>.path` and `config`."""


def single(override: str) -> str:
    """A setting of a single run, as Hydra takes it."""
    return _quoted(_listed(override))


def _listed(override: str) -> str:
    """`directions=de-en,en-de` as the list it means: commas are Hydra's sign for a sweep, and this is a single run."""
    name, _, value = override.partition("=")
    return f"{name}=[{value}]" if name == "directions" and "," in value and not value.startswith("[") else override


def _quoted(override: str) -> str:
    """`data.parallel.path=my/{lang}-en.tsv` as the text it means: a brace is Hydra's sign for a mapping."""
    name, _, value = override.partition("=")
    starts = "" if PATTERN.match(value) else "{["  # {lang}.txt is a pattern too, {a: b} a mapping
    return f"{name}='{value}'" if "{" in value and value[0] not in f"{starts}\"'$" else override
