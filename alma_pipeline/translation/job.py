"""The one-off job that translates lines: its identity, its scratch folder and its progress. Knows no files of the user."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.execution import one_off
from alma_pipeline.files import digest
from alma_pipeline.job import Input
from alma_pipeline.schema import Hardware
from alma_pipeline.store.identity import key_of, payload
from alma_pipeline.store.store import Store

Line = tuple[str, str]
"""Direction and text of a line to translate."""


@dataclass(frozen=True)
class Translation:
    """The translation of one line, as `stages/translate_text` writes it."""

    text: str
    source_cut: bool
    """Whether the line was cut at `max_source`."""
    translation_cut: bool
    """Whether the translation ended at `max_new_tokens`."""
    joined: bool
    """Whether line breaks in it became spaces."""


@contextmanager
def translations(
    settings: Any, hardware: Hardware, store: Store, lines: Sequence[Line], inputs: dict[str, Input]
) -> Iterator[list[Translation]]:
    """The translation of each line, in order; an equal request that was interrupted is continued.

    What was decoded is kept until the context exits without an error. Raises UserError or StageFailed if the job fails.
    """
    sources = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    key = _key(settings, inputs, sources)

    def feed(work: Path) -> None:
        (work / "sources.jsonl").write_text(sources, encoding="utf-8")

    with (
        one_off.scratch_root(store.root, Path(tempfile.gettempdir()) / f"alma_pipeline-{os.getuid()}") as root,
        one_off.run_one_off(_noted(root, store), settings, hardware, inputs, feed, _progress, key) as (out, _),
    ):
        with open(out / "translations.jsonl", encoding="utf-8") as file:
            found = [Translation(**json.loads(line)) for line in file]
        if len(found) != len(lines):
            raise UserError(f"{len(found)} translations of {len(lines)} lines in {out}; delete that folder and translate again")
        yield found


def _noted(root: Path, store: Store) -> Path:
    if root != store.root:
        note(f"the store {store.root} is read-only, so unfinished work is kept in {root}")
    return root


def _key(settings: Any, inputs: dict[str, Input], sources: str) -> str:
    """The request's identity: decoding settings, checkpoints and text.

    Checkpoints by their records, not by their keys: one that was made again under its key may have other weights.
    """
    folders = {role: dict.fromkeys([given.path, given.base or given.path, *given.adapters]) for role, given in inputs.items()}
    made = {role: "+".join(digest(Path(folder) / "record.json") for folder in each) for role, each in folders.items()}
    return key_of(payload(settings, made) | {"sources": hashlib.sha256(sources.encode()).hexdigest()})


def _progress(lines: one_off.MetricsLines) -> None:
    if sys.stderr.isatty():
        last = lines[-1]
        end = "\n" if last["step"] == last["total"] else ""
        what = "lines" if last["metrics"] else "scores"  # a scorer reports progress without metrics
        print(f"\r{last['step']:,} of {last['total']:,} {what}", end=end, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a line for the user on standard error: standard output may hold translations."""
    print(f"alma-pipeline: {text}", file=sys.stderr)
