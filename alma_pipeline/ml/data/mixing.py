"""In what order the prepared rows of several languages or directions make one corpus. Names and numbers; reads rows last.

A schedule is an endless-free stream of part names; the same settings give the same one, so that it can be taken up anywhere.
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
    """Each row once, the parts in turn, so that any beginning holds all of them."""
    for turn in range(max(sizes.values(), default=0)):
        yield from (name for name, size in sizes.items() if turn < size)


def documents_first(sizes: Mapping[str, int]) -> Iterator[str]:
    """Each row once: the documents language by language, then the pairs in turn."""
    for name, size in sizes.items():
        if "-" not in name:
            yield from itertools.repeat(name, size)
    yield from round_robin({name: size for name, size in sizes.items() if "-" in name})


def sample_interleaved(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int) -> Iterator[str]:
    """Parts drawn by their shares until each has been gone through; one that ends sooner begins again
    (`interleave_datasets` with `all_exhausted`, as the ALMA code mixes languages).

    Parts without a share, or with share 0, take no part. Raises UserError where none does.
    """
    names = [name for name in sizes if shares.get(name, 0) > 0 and sizes[name]]
    if not names:
        raise UserError(f"no text to draw from: streams {', '.join(sizes) or 'none'}, shares {dict(shares)}")
    bounds = list(itertools.accumulate(shares[name] for name in names))
    draw = random.Random(f"interleave/{seed}")
    taken = Counter[str]()
    waiting = set(names)
    while waiting:
        # min: rounding may put the product on the last bound itself.
        name = names[min(bisect.bisect_right(bounds, draw.random() * bounds[-1]), len(names) - 1)]
        yield name
        taken[name] += 1
        if taken[name] == sizes[name]:
            waiting.discard(name)


def mix(
    documents: Mapping[str, int], shares: Mapping[str, float], pairs: Mapping[str, int], share: float, seed: int
) -> Iterator[str]:
    """Documents drawn by `shares`, mixed with joined pairs in turn, of which there are `share` in all (X-ALMA: 0.5)."""
    kinds = {"documents": sum(1 for _ in sample_interleaved(documents, shares, seed)), "pairs": sum(pairs.values())}
    inner = {"documents": sample_interleaved(documents, shares, seed), "pairs": round_robin(pairs)}
    for kind in sample_interleaved(kinds, {"documents": 1 - share, "pairs": share}, seed):
        name = next(inner[kind], None)
        if name is None:
            inner[kind] = sample_interleaved(documents, shares, seed) if kind == "documents" else round_robin(pairs)
            name = next(inner[kind])
        yield name


def temperature_shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Shares n^(1/T): T = 1 keeps the sizes' proportions, a large T makes them equal (Arivazhagan et al. 2019, sec. 4.2)."""
    return {name: size ** (1 / temperature) for name, size in sizes.items()}


def arrange_rows(rows: Mapping[str, Sequence[Item]], order: Callable[[Mapping[str, int]], Iterator[str]]) -> list[Item]:
    """The rows of all parts in an order that takes each once, as `round_robin` does."""
    waiting = {name: iter(own) for name, own in rows.items()}
    return [next(waiting[name]) for name in order({name: len(own) for name, own in rows.items()})]


class RowFiles:
    """The prepared rows of each part, read in order, from the beginning again after the last."""

    def __init__(self, paths: Mapping[str, Path], places: Mapping[str, int]) -> None:
        """`places`: bytes read of each file by an earlier attempt."""
        self._files = {name: open(path, "rb") for name, path in paths.items()}  # noqa: SIM115
        for name, place in places.items():
            self._files[name].seek(place)

    def next(self, name: str) -> bytes:
        """The next line of a file; after its last, its first again."""
        file = self._files[name]
        line = file.readline()
        if not line:
            file.seek(0)
            line = file.readline()
        return line

    @property
    def places(self) -> dict[str, int]:
        """Byte offset of the next line, by file."""
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
