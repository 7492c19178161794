"""Rows of data sets on the Hugging Face hub, streamed by `datasets` at a pinned revision. No code of a repository is run."""

import os
from collections.abc import Iterator
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.formats import RawRow
from alma_pipeline.schema import Language, Source

CONFIGS = {
    "haoranxu/ALMA-Human-Parallel": "{lang}-en",
    "haoranxu/X-ALMA-Parallel-Data": "{lang}-en",
    "haoranxu/ALMA-R-Preference": "{lang}-en",
    "haoranxu/X-ALMA-Preference": None,  # one table, its direction in a column
    "haoranxu/WMT22-Test": "{direction}",
    "haoranxu/WMT23-Test": "{direction}",
    "haoranxu/FLORES-200": "{direction}",
    "allenai/nllb": "{nllb}",
}
"""Configuration of a part, as the authors' code asks for it (fe1ixxu/ALMA, run_llmmt.py and utils.py)."""
FILE_PATTERNS = {"oscar-corpus/OSCAR-2301": "{lang}_meta/*.jsonl.zst"}
"""Sets whose repository holds a loading script, which nobody runs, beside JSON lines."""


def rows(source: Source, part: str, languages: dict[str, Language], skip: int = 0) -> Iterator[RawRow]:
    """The rows of one language (`de`) or direction (`de-en`), `skip` of them left out at the start.

    Raises UserError where the set cannot be reached or has no such part.
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
    """The configuration of a part: `config` where it is set, else the one known for the repository, else its default."""
    pattern = source.config or CONFIGS.get(source.repo or "")
    if not pattern:
        return None
    codes = part.split("-")
    lang = next((code for code in codes if code != "en"), "en")
    nllb = "-".join(sorted(languages[code].nllb for code in codes))
    for name, value in (("lang", lang), ("direction", part), ("pair", "-".join(sorted(codes))), ("nllb", nllb)):
        pattern = pattern.replace(f"{{{name}}}", value)
    return pattern


def _open(source: Source, name: str | None, files: str) -> Any:
    import datasets

    if files:
        # By the names of the files: `datasets` refuses a repository that has a script, whatever else it holds.
        place = source.repo if os.path.isdir(source.repo or "") else f"hf://datasets/{source.repo}@{source.revision or 'main'}"
        named = {source.split: f"{place}/{files}"}
        return datasets.load_dataset("json", data_files=named, split=source.split, streaming=True)
    return datasets.load_dataset(source.repo, name, split=source.split, revision=source.revision, streaming=True)


def _plain(value: Any) -> Any:
    return value


def _errors() -> tuple[type[Exception], ...]:
    import datasets
    import httpx2 as httpx
    from huggingface_hub.errors import HfHubHTTPError

    found = (datasets.exceptions.DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, ValueError, RuntimeError)
    return (*found, StopIteration)  # the last is what `datasets` raises where no file of such a name is there


def _load_error(source: Source, what: str, error: Exception) -> str:
    from huggingface_hub import constants

    said = " ".join(str(error).split())[:300] or type(error).__name__
    return (
        f"the data set {what}, split {source.split}, revision {source.revision or 'main'}, could not be read from the Hugging "
        f"Face hub or its cache ({constants.HF_HOME}). Check the connection and HF_HUB_OFFLINE; a gated set needs its licence "
        f"accepted at https://huggingface.co/datasets/{source.repo} and a token in HF_TOKEN. Copies of the sets are read with "
        f"data.root=FOLDER, text of your own with reader=files and path. datasets says: {said}"
    )
