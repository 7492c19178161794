"""Cleans sentence pairs and documents in the declared steps, and counts what each step drops. Reads and writes no files.

The settings `Cleaning` (conf: data.cleaning) name the steps and their limits. `near` follows Bifixer (Ramirez-Sanchez et al.
2020): near duplicates differ only in case, punctuation, spaces or Unicode compatibility forms.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from alma_pipeline.ml.data.language_id import in_script, is_other_language
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.data.rows import AnyRow, CorpusRow, Document, SentencePair, texts_of
from alma_pipeline.schema import Cleaning, Language

ALWAYS = ("empty", "held_out")
"""Steps that run whatever the settings say."""
NON_WORD = regex.compile(r"[\p{Cf}\p{Variation_Selector}]+|[^\p{L}\p{N}\p{M}\p{Cf}][\p{M}\p{Cf}]*")
"""All but letters, digits and their marks. A mark on anything else, as in an emoji, goes with it."""


def match_key(text: str) -> str:
    """Letters with their marks and digits only, NFKC-normalised and case-folded: equal for near duplicates."""
    # Folding takes letters apart: the Turkish capital i into i and a dot, which no small letter has, others into what NFKC joins.
    folded = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")
    return str(NON_WORD.sub("", unicodedata.normalize("NFKC", folded)))


def match_keys(rows: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The match keys of test sentences, both sides, which must not be trained on. `rows`: lines of a corpus of form test."""
    return frozenset(text for row in rows for side in ("source", "target") if (text := match_key(row[side])))


class Cleaner:
    """Runs the steps over one stream. A row is a duplicate of an earlier row of the same stream."""

    def __init__(self, settings: Cleaning, languages: Mapping[str, Language], test: frozenset[str]) -> None:
        self.settings, self.languages, self.test = settings, languages, test
        self.held_out: frozenset[str] = frozenset()
        """Held-out texts: a row that contains one is dropped."""
        self.dropped: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        """Rows changed, by step: nfc, newlines."""
        self.read = 0
        self._seen = {name: HashSet() for name in ("exact", "near") if name in settings.steps}

    def pairs(self, rows: Sequence[SentencePair]) -> list[SentencePair]:
        """The pairs that pass every step, normalised, each side on one line, in order."""
        return self._steps([self._one_line(row) for row in rows], self._pair_reasons())

    def documents(self, rows: Sequence[Document]) -> list[Document]:
        """The documents that pass every step, normalised, in order."""
        return self._steps(
            [Document(row.id, row.language, self._normal(row.text.strip())) for row in rows], self._document_reasons()
        )

    def remember(self, rows: Sequence[CorpusRow]) -> None:
        """Add rows that an earlier attempt kept, so that their duplicates are found again."""
        for name, seen in self._seen.items():
            seen.add(_hashes(name, [texts_of(row) for row in rows]))

    def _one_line(self, row: SentencePair) -> SentencePair:
        (source, one), (target, other) = one_line(row.source), one_line(row.target)
        self.changed["newlines"] += one + other
        return SentencePair(row.id, row.direction, self._normal(source), self._normal(target))

    def _normal(self, text: str) -> str:
        if "nfc" not in self.settings.steps or unicodedata.is_normalized("NFC", text):
            return text
        self.changed["nfc"] += 1
        return unicodedata.normalize("NFC", text)

    def _steps(self, rows: list[AnyRow], reasons: Mapping[str, Callable[[AnyRow], bool]]) -> list[AnyRow]:
        self.read += len(rows)
        for name, bad in reasons.items():
            kept = [row for row in rows if not bad(row)]
            self.dropped[name] += len(rows) - len(kept)
            rows = kept
        # Duplicates last: the hash sets then hold exactly the kept rows, which is what a resumed attempt can restore.
        for name, seen in self._seen.items():
            new = seen.add(_hashes(name, [texts_of(row) for row in rows]))
            kept = [row for row, is_new in zip(rows, new, strict=True) if is_new]
            self.dropped[f"{name}_duplicate"] += len(rows) - len(kept)
            rows = kept
        return rows

    def _pair_reasons(self) -> dict[str, Callable[[SentencePair], bool]]:
        settings = self.settings
        reasons: dict[str, Callable[[SentencePair], bool]] = {
            "empty": lambda row: not (row.source and row.target),
            "length": lambda row: max(len(row.source), len(row.target)) > settings.max_characters,
            "ratio": lambda row: _ratio(row.source, row.target) > settings.max_ratio,
            "script": lambda row: any(self._other_script(text, code) for text, code in _sides(row)),
            "language": lambda row: any(is_other_language(text, code, settings.confidence) for text, code in _sides(row)),
            "held_out": self._is_held_out,
            "test": self._in_test,
        }
        return {name: reason for name, reason in reasons.items() if name in (*ALWAYS, *settings.steps)}

    def _document_reasons(self) -> dict[str, Callable[[Document], bool]]:
        settings = self.settings
        reasons: dict[str, Callable[[Document], bool]] = {
            "empty": lambda row: not row.text,
            "length": lambda row: len(row.text) > settings.max_document,
            "script": lambda row: self._other_script(row.text, row.language),
            "language": lambda row: is_other_language(row.text, row.language, settings.confidence),
            "held_out": self._is_held_out,
            "test": self._in_test,
        }
        return {name: reason for name, reason in reasons.items() if name in (*ALWAYS, *settings.steps)}

    def _other_script(self, text: str, code: str) -> bool:
        return not in_script(text, self.languages[code].nllb[-4:])

    def _is_held_out(self, row: CorpusRow) -> bool:
        return any(text in self.held_out for text in texts_of(row))

    def _in_test(self, row: CorpusRow) -> bool:
        texts = row.text.split("\n") if isinstance(row, Document) else (row.source, row.target)
        return any(match_key(text) in self.test for text in texts)


def _sides(row: SentencePair) -> tuple[tuple[str, str], tuple[str, str]]:
    source, target = row.direction.split("-")
    return (row.source, source), (row.target, target)


def _ratio(source: str, target: str) -> float:
    one, other = len(source.encode()), len(target.encode())
    return max(one, other) / max(1, min(one, other))


def _hashes(name: str, rows: Sequence[tuple[str, ...]]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """[rows] 64-bit hashes: with 10^8 rows, one run in a few thousand drops a row because of a collision."""
    spelled = ("\n".join(map(match_key, texts)) if name == "near" else "\n".join(texts) for texts in rows)
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in spelled)
    return np.frombuffer(digests, dtype=np.uint64)


class HashSet:
    """A set of 64-bit hashes that grows to hundreds of millions, at 8 bytes each.

    Holds sorted runs, each at least twice as long as the next. A batch is looked up in every run, then merged from the short end.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add a batch. Returns [n]: True for each hash that occurs neither in an earlier batch nor earlier in this one."""
        unique, first = np.unique(hashes, return_index=True)
        fresh = np.ones(len(unique), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, unique), len(run) - 1)  # a hash beyond the last one has no place
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
