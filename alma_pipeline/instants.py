"""Points in time: UTC where they are stored and compared, local time where they are shown."""

from datetime import UTC, datetime

NEVER = datetime.min.replace(tzinfo=UTC)
"""Older than every instant."""


def now() -> str:
    """The current instant as records hold it: `2026-11-29T07:35:43.120+00:00`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def stamp() -> str:
    """The current instant as part of a file name: `20261129T073543Z`. Names sort by time, whatever the time zone."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def parse(text: str) -> datetime:
    """The instant of an ISO 8601 time, in UTC. A time without an offset is local time. Raises ValueError."""
    return datetime.fromisoformat(text).astimezone(UTC)


def shown(instant: datetime) -> str:
    """An instant in this machine's time zone, with its offset: `2026-11-29 16:35:43 +0900`."""
    return instant.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
