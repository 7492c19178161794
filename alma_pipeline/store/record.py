"""What is known of a finished artifact: its record.json, written last, and whether its files are there."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """What is known of a finished artifact: the content of its `record.json`, and where it lies."""

    path: Path
    name: str
    key: str
    kind: str
    payload: dict[str, Any]
    result: dict[str, Any]
    files: dict[str, int]
    """Size by relative path: what a reuse checks."""
    digests: dict[str, str]
    """SHA-256 by relative path: what `doctor --verify` checks."""
    created: str
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """Of a checkpoint: {form, base_key, adapter_keys}, how to load it."""
    mlflow_run: str = ""
    alias_of: str = ""
    """Of an adopted artifact: the key it really has."""


def read_record(folder: Path) -> Record | None:
    """The record of an artifact folder; None when the folder is not finished. Raises UserError for one nobody here wrote."""
    file = folder / "record.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); move {folder} out of the store, and its node is made again") from error
    schema = raw.pop("schema", None) if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{file} has schema {schema}, expected {SCHEMA}: made by another version; use that, or another store")
    try:
        return Record(path=folder, **raw)
    except TypeError as error:
        raise UserError(f"{file} does not fit schema {SCHEMA} ({error}); move {folder} out of the store") from error


def is_whole(record: Record) -> bool:
    """Every file there, with its size. Digests are `doctor --verify`'s business."""
    try:
        return all(os.stat(record.path / name).st_size == size for name, size in record.files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False
