"""How reports format names and numbers, in every output format."""

import hashlib
from typing import Any

from alma_pipeline.store.record import Record

VERDICT_MARKS = {"better": "▲", "worse": "▼", "tie": "≈"}


def arrow(direction: str) -> str:
    """`en-de` → `en→de`."""
    return direction.replace("-", "→")


def signed(value: float) -> str:
    """One decimal with its sign and a typographic minus: `−2.2`, `+0.8`, `0.0`."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value_text(p: float | None) -> str:
    """`p < 0.001`, `p = 0.037`; empty if nothing was tested."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


READER_NAMES = {"cldr": "CLDR", "files": "local files"}
SHORT_DIGEST = 7
"""Characters of a digest or a commit."""


def describe_test_set(test: Record) -> str:
    """Source, revision and size of a test set: `haoranxu/WMT22-Test@8b2f0c1, 100 sentences per direction`.

    Only test sets with equal descriptions share a table: a part is never mistaken for the whole set, nor one file for another.
    """
    config = test.payload["config"]
    count = config.get("held_out")
    return f"{_source(config.get('pairs', {}), test.name)}, {f'{count:,} sentences per direction' if count else 'all sentences'}"


def _source(pairs: dict[str, Any], node: str) -> str:
    """The hub repository with its commit, or the reader with a digest of its files; without either, the node's name."""
    if repo := pairs.get("repo"):
        revision, split = pairs.get("revision") or "", pairs.get("split") or "test"
        return f"{repo}{f'@{revision[:SHORT_DIGEST]}' if revision else ''}{f', {split}' if split != 'test' else ''}"
    name = READER_NAMES.get(pairs.get("reader", ""), node)
    if files := pairs.get("files"):
        return f"{name} ({hashlib.sha256(' '.join(sorted(files.values())).encode()).hexdigest()[:SHORT_DIGEST]})"
    return name
