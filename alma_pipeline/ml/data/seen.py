"""A set of 64-bit hashes that grows to hundreds of millions in 8 bytes each. Not a set of anything else."""

import numpy as np
from numpy.typing import NDArray


class Seen:
    """Sorted runs of hashes, each at least twice the next: a batch is looked up in all of them and merged from the small end."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] True for each hash that was not there before, in this batch or an earlier one; then all are."""
        unique, first = np.unique(hashes, return_index=True)
        fresh = np.ones(len(unique), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            fresh &= run[places] != unique
        new = np.zeros(len(hashes), dtype=bool)
        new[first[fresh]] = True
        if fresh.any():
            self._insert(unique[fresh])
        return new

    def _insert(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")
        self._runs.append(run)
