"""Turns a setting as a person types it into one that Hydra parses."""

import re

PATTERN = re.compile(r"\{(lang|direction|pair|side|nllb)\}")
"""Placeholders in `data.<source>.path` and `config`."""

QUOTED_ONLY = re.compile(r"[~\u0080-\U0010ffff]")
"""Characters that Hydra takes within quotes only, as in `~/my texts` and `/tmp/Übung`."""
WITH_MEANING = re.compile(r"""["'\\,$(){}\[\]]""")
"""Characters that mean something to Hydra: a value with one of them stays as it was typed."""


def for_single_run(override: str) -> str:
    """A setting of a single run, as Hydra takes it."""
    return as_text(as_list(override))


def as_list(override: str) -> str:
    """`directions=de-en,en-de` as the list it means in a single run; Hydra would take the comma for a sweep."""
    name, _, value = override.partition("=")
    return f"{name}=[{value}]" if name == "directions" and "," in value and not value.startswith("[") else override


def as_text(override: str) -> str:
    """`data.parallel.path=my/{lang}-en.tsv` as the text it means; Hydra would take the brace for a mapping.

    Likewise `data.root=~/texts` and `data.root=Übung`, which Hydra would reject.
    """
    name, _, value = override.partition("=")
    if QUOTED_ONLY.search(value) and not WITH_MEANING.search(value):
        return f"{name}='{value}'"
    starts = "" if PATTERN.match(value) else "{["  # {lang}.txt is a placeholder, {a: b} a mapping
    return f"{name}='{value}'" if "{" in value and value[0] not in f"{starts}\"'$" else override


def is_hydras(override: str) -> bool:
    """Whether it sets Hydra itself: `hydra.sweep.dir=...`, `hydra/sweeper=...`."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))
