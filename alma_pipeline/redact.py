"""Keeps credentials out of whatever leaves this process: plans, logs, records, tracking (B42).

Not a scanner for secrets in general: it knows the values of this process's own secret environment variables, and
the user:password part of URLs.
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
"""PGPASSWORD and its like write two words as one; the other words are too short to look for inside a name."""
SHORTEST = 6
"""A shorter value would be found in half of all texts."""

# RFC 3986 userinfo: what stands between the scheme and an @, in the same path-free part.
_USERINFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#@\"'<>]+(?:@[^\s/?#@\"'<>]+)*@")


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a credential: HF_TOKEN does, NUM_MEMORY_TOKENS does not."""
    words = name.upper().split("_")
    return not SECRET_WORDS.isdisjoint(words) or any(word.endswith(SECRET_ENDINGS) for word in words)


def redact(text: str) -> str:
    """The text without secret values and without the userinfo of URLs."""
    return _redact(text, _secrets())


def redacted(value: Any) -> Any:
    """A nested plain value, keys included, with every text in it redacted; other values as they are."""
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
    """Any secret of the environment in the spellings it can have in a log, in JSON and in a URL; longest first."""
    spellings: set[str] = set()
    for name, raw in os.environ.items():
        value = raw.strip()
        if is_secret_name(name) and len(value) >= SHORTEST:
            spellings |= {value, quote(value, safe=""), quote_plus(value)}
            spellings |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
