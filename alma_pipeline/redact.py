"""Removes credentials from everything that leaves this process: plans, logs, records, tracking (B42).

Not a general secret scanner: it knows the values of this process's secret environment variables and the user:password
part of URLs.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "<redacted>"
SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY"}
SECRET_ENDINGS = ("PASSWORD", "PASSWD")
"""PGPASSWORD and the like join two words; the other secret words are too short to search for inside a name."""
MIN_SECRET_LENGTH = 6
"""Minimum length of a secret value: a shorter one would match ordinary text everywhere."""

# RFC 3986 userinfo: between the scheme and an @, inside the authority part.
_USERINFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#@\"'<>]+(?:@[^\s/?#@\"'<>]+)*@")


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name is a credential: HF_TOKEN is, NUM_MEMORY_TOKENS is not."""
    words = name.upper().split("_")
    return not SECRET_WORDS.isdisjoint(words) or any(word.endswith(SECRET_ENDINGS) for word in words)


def redact(text: str) -> str:
    """The text with secret values and the userinfo of URLs masked."""
    return _redact(text, _secrets())


def redact_values(value: Any) -> Any:
    """A nested plain value with every string in it redacted, keys included; other values are unchanged."""
    return _redacted(value, _secrets())


def _redacted(value: Any, secrets: "re.Pattern[str] | None") -> Any:
    if isinstance(value, str):
        return _redact(value, secrets)
    if isinstance(value, Mapping):
        return {_redacted(key, secrets): _redacted(child, secrets) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(child, secrets) for child in value]
    return value


def _redact(text: str, secrets: "re.Pattern[str] | None") -> str:
    if secrets:
        text = secrets.sub(MASK, text)
    return _USERINFO.sub(rf"\g<scheme>{MASK}@", text) if "://" in text else text


def _secrets() -> "re.Pattern[str] | None":
    """A pattern of every secret in the environment, as spelled in a log, in JSON and in a URL; None if there are none."""
    spellings: set[str] = set()
    for name, raw in os.environ.items():
        value = raw.strip()
        if is_secret_name(name) and len(value) >= MIN_SECRET_LENGTH:
            spellings |= {value, quote(value, safe=""), quote_plus(value)}
            spellings |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    # Longest first: a secret that starts with another one must be masked whole.
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
