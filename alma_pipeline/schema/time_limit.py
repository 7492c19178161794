"""Slurm's time limits: how they are written, and how long before the end a job is given notice."""

import math
import re

FORMAT = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
FORMATS = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED"
"""As in the manual of srun 22.05."""
NOTICE_SECONDS = 300
"""Enough for a training step, an evaluation and a resume point of a large model (our choice); 0.3 % of a day."""
LONGEST_MINUTES = 43_200
"""30 days: a larger plain number is a time of YAML's, which reads an unquoted 24:00:00 as 86400."""


def limit_seconds(text: str) -> float:
    """Seconds of a limit; infinite for UNLIMITED and for 0, as in Slurm. Raises ValueError that names the formats."""
    if text.upper() == "UNLIMITED":
        return math.inf
    found = FORMAT.fullmatch(text)
    if not found:
        raise ValueError(f"found {text}, expected {FORMATS}")
    days, *given = found.groups()
    parts = [int(part) for part in given if part is not None]
    # Without days, one part is minutes and two are minutes and seconds.
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    if days is None and parts[1:] == [minutes] and minutes > LONGEST_MINUTES:
        raise ValueError(f"found {minutes:,} minutes; a file of YAML needs quotes, as in '24:00:00', or write D-HH")
    total = int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds
    return total or math.inf


def notice_seconds(text: str) -> int:
    """How long before the end the notice is due: `NOTICE_SECONDS`, or a sixth of a limit below half an hour."""
    return int(min(NOTICE_SECONDS, limit_seconds(text) / 6))
