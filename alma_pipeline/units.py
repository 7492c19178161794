"""Formats numbers for people: durations, bytes, energy, counts."""

from typing import Any


def duration(value: float) -> str:
    """A measured duration: `4.2 s`, `42 s`, `3 min 05 s`, `7 h 12 min`, `3.4 days`."""
    if value < 59.5:
        return f"{value:.0f} s" if value >= 9.95 else f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{value / 86400:.1f} days"


def rough_duration(value: float) -> str:
    """An estimated duration, to two digits: `42 s`, `3 min`, `7.2 h`, `15 days`."""
    if value < 90:
        return f"{value:.0f} s"
    if value < 90 * 60:
        return f"{value / 60:.0f} min"
    if value < 36 * 3600:
        return f"{value / 3600:.1f} h" if value < 36000 else f"{value / 3600:.0f} h"
    return f"{value / 86400:.1f} days" if value < 864_000 else f"{value / 86400:.0f} days"


def size(value: float) -> str:
    """Bytes in decimal units: `640 B`, `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 9.95 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def energy(joules: float) -> str:
    """Joules as `0.42 Wh`, `12 Wh`, `1.3 kWh`."""
    hours = joules / 3600
    if hours < 9.95:
        return f"{hours:.2g} Wh"
    return f"{hours:.0f} Wh" if hours < 999.5 else f"{hours / 1000:.1f} kWh"


def count(value: float) -> str:
    """A count as `640`, `12.4k`, `1.3M`, `20.0B`."""
    for unit in ("", "k", "M"):
        if value < (999.5 if not unit else 999.95):
            return f"{value:.0f}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}B"


def typed(value: Any) -> str:
    """A setting's value as it is typed: null, true, false."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shorten(value: Any) -> str:
    """A setting's value as it is typed, cut to 40 characters."""
    text = typed(value)
    return text if len(text) <= 40 else text[:37] + "..."
