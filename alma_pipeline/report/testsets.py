"""What a test set is called beside its scores: where it is from, and how much of it was taken."""

from alma_pipeline.store import Record

READERS = {"cldr": "CLDR", "files": "given files"}


def described(test: Record) -> str:
    """`haoranxu/WMT22-Test, 100 sentences a direction`: so that a part of a set is not mistaken for all of it.

    Test sets of different descriptions share no table.
    """
    config = test.payload["config"]
    source = config.get("pairs", {})
    name = source.get("repo") or READERS.get(source.get("reader", ""), test.name)
    count = config.get("held_out")
    return f"{name}, {f'{count:,} sentences a direction' if count else 'all of it'}"
