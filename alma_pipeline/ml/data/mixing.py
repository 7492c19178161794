"""The order in which rows of several languages or directions form one corpus: schedules of part names, and rows read by them.

A schedule is a finite, deterministic stream of part names, so it can be resumed at any position.
"""

import bisect
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.rows import Item


def round_robin(sizes: Mapping[str, int]) -> Iterator[str]:
    """Each row once, cycling through the parts, so that every prefix is balanced."""
    for turn in range(max(sizes.values(), default=0)):
        yield from (name for name, size in sizes.items() if turn < size)


def documents_first(sizes: Mapping[str, int]) -> Iterator[str]:
    """Each row once: documents language by language, then pairs in `round_robin` order."""
    for name, size in sizes.items():
        if "-" not in name:
            yield from itertools.repeat(name, size)
    yield from round_robin({name: size for name, size in sizes.items() if "-" in name})


def sample_interleaved(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int) -> Iterator[str]:
    """Sample parts by their shares until each has been used up once; a part that runs out starts over.

    As `interleave_datasets` with `all_exhausted`, with which the ALMA code mixes languages. Parts without rows or with share 0
    are left out. Raises UserError if none remains.
    """
    names = [name for name in sizes if shares.get(name, 0) > 0 and sizes[name]]
    if not names:
        raise UserError(
            f"no text to sample from: the parts are {', '.join(sizes) or 'none'}, their shares {dict(shares)}; "
            "expected a share above 0 for at least one part that has rows"
        )
    bounds = list(itertools.accumulate(shares[name] for name in names))
    draw = random.Random(f"interleave/{seed}")
    taken = Counter[str]()
    waiting = set(names)
    while waiting:
        # min: rounding can put the product on the last bound itself.
        name = names[min(bisect.bisect_right(bounds, draw.random() * bounds[-1]), len(names) - 1)]
        yield name
        taken[name] += 1
        if taken[name] == sizes[name]:
            waiting.discard(name)


def mix(
    documents: Mapping[str, int], shares: Mapping[str, float], pairs: Mapping[str, int], share: float, seed: int
) -> Iterator[str]:
    """Mix documents sampled by `shares` with joined pairs in turn; `share` of all rows are pairs (X-ALMA: 0.5)."""
    kinds = {"documents": sum(1 for _ in sample_interleaved(documents, shares, seed)), "pairs": sum(pairs.values())}
    inner = {"documents": sample_interleaved(documents, shares, seed), "pairs": round_robin(pairs)}
    for kind in sample_interleaved(kinds, {"documents": 1 - share, "pairs": share}, seed):
        name = next(inner[kind], None)
        # The kind that runs out first starts over.
        if name is None:
            inner[kind] = sample_interleaved(documents, shares, seed) if kind == "documents" else round_robin(pairs)
            name = next(inner[kind])
        yield name


def temperature_shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Shares n^(1/T): T = 1 keeps the sizes' proportions, a large T makes them equal (Arivazhagan et al. 2019, sec. 4.2)."""
    return {name: size ** (1 / temperature) for name, size in sizes.items()}


def arrange_rows(rows: Mapping[str, Sequence[Item]], order: Callable[[Mapping[str, int]], Iterator[str]]) -> list[Item]:
    """The rows of all parts in an order that uses each once, such as `round_robin`."""
    waiting = {name: iter(own) for name, own in rows.items()}
    return [next(waiting[name]) for name in order({name: len(own) for name, own in rows.items()})]


class RowFiles:
    """The stored rows of each part, read line by line; a file starts over after its last line."""

    def __init__(self, paths: Mapping[str, Path], offsets: Mapping[str, int]) -> None:
        """`offsets`: the bytes of each file that an earlier attempt read."""
        self._files = {name: open(path, "rb") for name, path in paths.items()}  # noqa: SIM115
        for name, offset in offsets.items():
            self._files[name].seek(offset)

    def next(self, name: str) -> bytes:
        """The next line of a file, or its first after the last."""
        file = self._files[name]
        line = file.readline()
        if not line:
            file.seek(0)
            line = file.readline()
        return line

    @property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each file's next line."""
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
