"""The record of a finished artifact (`record.json`, written last), and the check that its files are present."""

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.errors import UserError

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """A finished artifact: the content of its `record.json`, and its folder."""

    path: Path
    name: str
    key: str
    kind: str
    payload: dict[str, Any]
    result: dict[str, Any]
    files: dict[str, int]
    """Size in bytes by relative path; checked before the artifact is reused."""
    digests: dict[str, str]
    """SHA-256 by relative path; checked by `doctor --verify`."""
    created: datetime
    """In UTC. Old records hold local time, most with its offset."""
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """For a checkpoint, how to load it: {form, base_key, adapter_keys}."""
    mlflow_run: str = ""
    alias_of: str = ""
    """For an alias of an adopted artifact: the real key."""


def read_record(folder: Path) -> Record | None:
    """The record of an artifact folder; None if the folder has none. Raises UserError for a damaged or foreign record."""
    file = folder / "record.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); move {folder} out of the store, and its node will run again") from error
    schema = raw.pop("schema", None) if isinstance(raw, dict) else None
    if schema != RECORD_SCHEMA:
        raise UserError(
            f"{file} has schema {schema}, expected {RECORD_SCHEMA}: another version wrote it; use that one or another store"
        )
    try:
        return Record(path=folder, **raw | {"created": instants.parse(raw["created"])})
    except (TypeError, KeyError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file} does not match schema {RECORD_SCHEMA} ({reason}); move {folder} out of the store") from error


def is_complete(record: Record) -> bool:
    """Whether every recorded file exists with its recorded size; `doctor --verify` also checks the digests."""
    try:
        return all(os.stat(record.path / name).st_size == size for name, size in record.files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False
