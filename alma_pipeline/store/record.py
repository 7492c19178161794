"""The record of a finished artifact (`record.json`, written last), and the check that its files are present."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.errors import UserError
from alma_pipeline.files import owner, write_json

RECORD_SCHEMA = 1
OWN_DIGEST = "sha256"
"""Field of `record.json`: the digest of all others."""
_AWAY = "move {folder} out of the store, and its node will run again"
LOGS = ("metrics.jsonl", "log.txt", "job.json")
"""Files of an attempt that are kept with its artifact; no job reads them, so an artifact is complete without them."""


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
    """SHA-256 by relative path; checked before a job reads the files."""
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


def write_record(folder: Path, content: dict[str, Any]) -> None:
    """Write `record.json` with the digest of its own content, atomically."""
    content = json.loads(json.dumps({"schema": RECORD_SCHEMA} | content))
    write_json(folder / "record.json", content | {OWN_DIGEST: _own_digest(content)})


def _own_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a record's content, as JSON holds it, in any order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> Record | None:
    """The record of an artifact folder; None if the folder is gone.

    Raises UserError for a record that is missing, is damaged, was written by another version or cannot be read.
    """
    file = folder / "record.json"
    try:
        raw = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        if not folder.is_dir():
            return None
        raise UserError(f"{folder} has no record.json; {_AWAY.format(folder=folder)}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); it belongs to {owner(file)}, who can allow it") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); {_AWAY.format(folder=folder)}") from error
    # Records of earlier versions have no digest of their own.
    own = raw.pop(OWN_DIGEST, None) if isinstance(raw, dict) else None
    if own is not None and own != _own_digest(raw):
        raise UserError(f"{file} is damaged (it differs from its own digest); {_AWAY.format(folder=folder)}")
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
    """Whether every recorded file but the logs exists with its recorded size. Reads no content."""
    return not incomplete_file(record)


def incomplete_file(record: Record) -> str:
    """The first file, logs apart, that is missing or has another size than recorded, in words; empty if there is none."""
    names = [name for name in record.files if name not in LOGS]
    return next((f"{name} {text}" for name in names if (text := size_difference(record, name))), "")


def size_difference(record: Record, name: str) -> str:
    """How the size of a file differs from the recorded one; empty if it does not."""
    try:
        found = (record.path / name).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"has {found:,} bytes, recorded {record.files[name]:,}" if found != record.files[name] else ""
