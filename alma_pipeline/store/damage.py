"""Whether the files of an artifact are still those of its record, and what to do if they are not. Repairs nothing."""

import hashlib
from collections.abc import Iterable, Iterator

from alma_pipeline.errors import UserError
from alma_pipeline.files import DigestCache
from alma_pipeline.store.record import LOGS, Record, size_difference


def check_files(records: Iterable[Record], digests: DigestCache) -> None:
    """Compare every file that a job reads of these artifacts with its record. Raises UserError that names all that differ."""
    found = [f"{text}. {remedy(record)}" for record in records for text in damaged_files(record, digests)]
    if found:
        raise UserError("\n".join(dict.fromkeys(found)))


def damaged_files(record: Record, digests: DigestCache) -> Iterator[str]:
    """What is wrong with each file that differs from the record, its path first; logs, which no job reads, are left out."""
    for name, expected in record.digests.items():
        if name not in LOGS and (text := _difference(record, name, expected, digests)):
            yield f"{record.path / name} {text}"


def _difference(record: Record, name: str, expected: str, digests: DigestCache) -> str:
    if text := size_difference(record, name):
        return text
    found = digests.of(record.path / name)
    if found != expected:  # or the cache is what is damaged
        found = digests.afresh(record.path / name)
    return _digest_difference(found, expected)


def checked_content(record: Record, name: str) -> str:
    """A text file of an artifact, compared with the record as it is read. Raises UserError if it is missing or differs."""
    path = record.path / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. {remedy(record)}") from error
    found, expected = hashlib.sha256(content).hexdigest(), record.digests.get(name, "")
    if text := _digest_difference(found, expected):
        raise UserError(f"{path} {text}. {remedy(record)}")
    return content.decode("utf-8")


def _digest_difference(found: str, expected: str) -> str:
    return f"is damaged: its SHA-256 is {found[:12]}…, recorded {expected[:12]}…" if found != expected else ""


def remedy(record: Record) -> str:
    """What to do about a damaged artifact: make it again; a published or adopted one is taken from its source again."""
    if record.kind != "released":
        return f"Make it again: run the settings that made it with --force {record.name}"
    source = str(record.result.get("repo") or "its source")
    return (
        f"Move {record.path} out of the store; then run again what downloaded it, or adopt it again: "
        f"alma-pipeline adopt {record.name} {source}"
    )
