"""What a test set is called beside its scores: where it is from, and how much of it was taken."""

import hashlib
from typing import Any

from alma_pipeline.store.store import Record

READERS = {"cldr": "CLDR", "files": "given files"}
SHOWN = 7
"""Characters of a digest or a commit."""


def described(test: Record) -> str:
    """`haoranxu/WMT22-Test@8b2f0c1, 100 sentences a direction`: so that no part is mistaken for all of it, nor files for others.

    Test sets of different descriptions share no table.
    """
    config = test.payload["config"]
    count = config.get("held_out")
    return f"{_source(config.get('pairs', {}), test.name)}, {f'{count:,} sentences a direction' if count else 'all of it'}"


def _source(pairs: dict[str, Any], otherwise: str) -> str:
    if repo := pairs.get("repo"):
        revision, split = pairs.get("revision") or "", pairs.get("split") or "test"
        return f"{repo}{f'@{revision[:SHOWN]}' if revision else ''}{f', {split}' if split != 'test' else ''}"
    name = READERS.get(pairs.get("reader", ""), otherwise)
    if files := pairs.get("files"):
        return f"{name} ({hashlib.sha256(' '.join(sorted(files.values())).encode()).hexdigest()[:SHOWN]})"
    return name
