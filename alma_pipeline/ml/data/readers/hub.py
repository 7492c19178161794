"""Streams rows of Hugging Face hub data sets with `datasets`, at a pinned revision. Runs no code of a repository."""

import os
from collections.abc import Iterator
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.raw_rows import RawRow
from alma_pipeline.schema import Language, Source

CONFIGS = {
    "haoranxu/ALMA-Human-Parallel": "{lang}-en",
    "haoranxu/X-ALMA-Parallel-Data": "{lang}-en",
    "haoranxu/ALMA-R-Preference": "{lang}-en",
    "haoranxu/X-ALMA-Preference": None,  # one table with a column for the direction
    "haoranxu/WMT22-Test": "{direction}",
    "haoranxu/WMT23-Test": "{direction}",
    "haoranxu/FLORES-200": "{direction}",
    "allenai/nllb": "{nllb}",
}
"""The configuration to load for a part, as in the authors' code (fe1ixxu/ALMA, run_llmmt.py and utils.py)."""
FILE_PATTERNS = {"oscar-corpus/OSCAR-2301": "{lang}_meta/*.jsonl.zst"}
"""Files of data sets whose repository has a loading script, which is not run, next to JSON lines."""


def rows(source: Source, part: str, languages: dict[str, Language], skip: int = 0) -> Iterator[RawRow]:
    """The rows of one language (`de`) or direction (`de-en`) after the first `skip`.

    Raises UserError if the data set cannot be reached or has no such part.
    """
    name, files = config_name(source, part, languages), FILE_PATTERNS.get(source.repo or "", "").replace("{lang}", part)
    what = f"{source.repo}{f' ({name or files})' if name or files else ''}"
    try:
        stream = _open(source, name, files)
        if skip:
            stream = stream.skip(skip)
        for number, item in enumerate(stream, start=skip + 1):
            yield RawRow(f"{what}, {source.split} row {number}", item, _plain)
    except _errors() as error:
        raise UserError(_load_error(source, what, error)) from error


def config_name(source: Source, part: str, languages: dict[str, Language]) -> str | None:
    """The configuration of a part: the setting `config`, else the one in `CONFIGS`, else None, the data set's default."""
    pattern = source.config or CONFIGS.get(source.repo or "")
    if not pattern:
        return None
    codes = part.split("-")
    lang = next((code for code in codes if code != "en"), "en")
    nllb = "-".join(sorted(languages[code].nllb for code in codes))
    for name, value in (("lang", lang), ("direction", part), ("pair", "-".join(sorted(codes))), ("nllb", nllb)):
        pattern = pattern.replace(f"{{{name}}}", value)
    return pattern


def holds(source: Source, part: str, languages: dict[str, Language]) -> str:
    """What the configuration of a part contains: the direction or the language that it names, else all."""
    name, repo = config_name(source, part, languages), source.repo or ""
    pattern = source.config or CONFIGS.get(repo) or FILE_PATTERNS.get(repo) or ""
    if "{lang}" in pattern:
        return next((code for code in part.split("-") if code != "en"), "en")
    return name if name in (part, "-".join(reversed(part.split("-")))) else "all"


def _open(source: Source, name: str | None, files: str) -> Any:
    import datasets

    if files:
        # By file names: `datasets` refuses to load a repository that has a loading script, even if it also has data files.
        place = source.repo if os.path.isdir(source.repo or "") else f"hf://datasets/{source.repo}@{source.revision or 'main'}"
        files_of = {source.split: f"{place}/{files}"}
        return datasets.load_dataset("json", data_files=files_of, split=source.split, streaming=True)
    return datasets.load_dataset(source.repo, name, split=source.split, revision=source.revision, streaming=True)


def _plain(value: Any) -> Any:
    return value


def _errors() -> tuple[type[Exception], ...]:
    import datasets
    import httpx2 as httpx
    from huggingface_hub.errors import HfHubHTTPError

    found = (datasets.exceptions.DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, ValueError, RuntimeError)
    return (*found, StopIteration)  # `datasets` raises the last if no file matches a name


def _load_error(source: Source, what: str, error: Exception) -> str:
    from huggingface_hub import constants

    known = "no such file" if isinstance(error, StopIteration) else type(error).__name__
    reason = " ".join(str(error).split())[:300] or known
    return (
        f"cannot read the data set {what}, split {source.split}, revision {source.revision or 'main'}, from the Hugging Face "
        f"hub or its cache ({constants.HF_HOME}): {reason}. Check the connection and HF_HUB_OFFLINE; for a gated data set, "
        f"accept its licence at https://huggingface.co/datasets/{source.repo} and set HF_TOKEN. To read local copies of the data "
        "sets, set data.root=FOLDER; to read your own text, set reader=files and path"
    )
