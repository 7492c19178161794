"""Cleaning: each step on rows it must drop and rows it must keep, with counts."""

import numpy as np
import pytest

from alma_pipeline.ml.data.cleaning import Cleaner, HashSet, match_key, match_keys
from alma_pipeline.ml.data.rows import Document, SentencePair
from alma_pipeline.schema import Cleaning
from helpers.text_files import LANGUAGES

GERMAN = "Der Zug nach Leipzig fährt heute eine halbe Stunde später ab."
ENGLISH = "The train to Leipzig leaves half an hour later today."
CZECH = "Vlak do Lipska dnes odjíždí o půl hodiny později než obvykle."


def clean(
    steps: list[str], *pairs: tuple[str, str], test: frozenset[str] = frozenset()
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    cleaner = Cleaner(Cleaning(steps=steps, max_characters=100, max_ratio=3.0), LANGUAGES, test)
    rows = [SentencePair(f"de-en:{n}", "de-en", *pair) for n, pair in enumerate(pairs)]
    return [(row.source, row.target) for row in cleaner.pairs(rows)], dict(+cleaner.dropped) | dict(+cleaner.changed)


@pytest.mark.parametrize(
    ("step", "pair", "reason"),
    [
        ("empty", (" ", ENGLISH), "empty"),
        ("length", (GERMAN * 2, ENGLISH), "length"),
        ("ratio", (GERMAN, "Train."), "ratio"),
        ("script", (GERMAN, "Поезд в Лейпциг сегодня"), "script"),
        ("language", (CZECH, ENGLISH), "language"),
        ("language", (GERMAN, GERMAN), "language"),
        ("exact", (GERMAN, ENGLISH), "exact_duplicate"),
        ("near", (GERMAN.upper() + "!", ENGLISH.replace(" to", "  to")), "near_duplicate"),
        ("test", ("DER ZUG", "The test sentence"), "test"),
    ],
)
def test_each_step_drops_its_own_and_counts_it(step: str, pair: tuple[str, str], reason: str) -> None:
    good = (GERMAN, ENGLISH)
    test = match_keys([{"source": "Der Satz", "target": "the Test sentence!"}]) if step == "test" else frozenset[str]()
    kept, counts = clean([] if step == "empty" else [step], good, pair, test=test)
    assert kept == [good] and counts == {reason: 1}


HINDI = ["दिन", "दीन", "काल", "कल"]
APART = [HINDI, ["กิน", "กัน"], ["كَتَبَ", "كُتِبَ"], ["বর", "বর্\u200d", "বার"], ["ẹ\u0301", "ẹ\u0300"]]
"""Different words in scripts whose vowels are marks: day and poor, time and tomorrow; to eat and together; and so on."""


@pytest.mark.parametrize("words", APART, ids=["Hindi", "Thai", "Arabic", "Bengali", "Yoruba"])
def test_words_that_differ_in_their_vowel_signs_are_no_duplicates(words: list[str]) -> None:
    kept, counts = clean(["near"], *((word, word) for word in words))
    assert [source for source, _ in kept] == words and not counts
    test = match_keys([{"source": words[0], "target": words[0]}])
    kept, counts = clean(["test"], *((word, word) for word in words), test=test)
    assert [source for source, _ in kept] == words[1:] and counts == {"test": 1}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I don\u00b4t", "i don't"),
        ("gern \u2764\ufe0f", "Gern"),
        ("İSTANBUL", "istanbul"),
        ("Mu\u0308nchen", "MÜNCHEN!"),
        ("co\u00adop", "coop"),
        ("می\u200cروم", "میروم"),
    ],
)
def test_marks_on_what_is_no_letter_and_invisible_characters_make_no_difference(one: str, other: str) -> None:
    assert match_key(one) == match_key(other) != ""


def test_without_steps_everything_but_empty_rows_stays() -> None:
    pairs = [(GERMAN, ENGLISH), (GERMAN, ENGLISH), (CZECH, "x"), (GERMAN * 3, "Поезд")]
    assert clean([], *pairs, ("", ENGLISH)) == (pairs, {"empty": 1})


def test_nfc_and_line_breaks_change_rows_and_are_counted() -> None:
    kept, counts = clean(["nfc"], ("Mu\u0308nchen\nliegt", "Munich\r\nis"))
    assert kept == [("München liegt", "Munich is")] and counts == {"nfc": 1, "newlines": 2}


def test_short_and_unknown_texts_are_not_doubted() -> None:
    kept, counts = clean(["script", "language"], ("Ok", "Ok"), ("12:30", "12:30"), ("Berlin", "Berlin"))
    assert len(kept) == 3 and not counts


def test_documents_are_cleaned_as_a_whole_and_tested_line_by_line() -> None:
    cleaner = Cleaner(Cleaning(steps=["exact", "language", "test"], max_document=500), LANGUAGES, frozenset({match_key(ENGLISH)}))
    texts = [GERMAN, GERMAN, CZECH, f"Vorher.\n{ENGLISH}", "  "]
    kept = cleaner.documents([Document(f"de:{n}", "de", text) for n, text in enumerate(texts)])
    assert [line.id for line in kept] == ["de:0"]
    assert dict(+cleaner.dropped) == {"empty": 1, "language": 1, "exact_duplicate": 1, "test": 1}


def test_what_an_earlier_attempt_kept_is_a_duplicate() -> None:
    row = SentencePair("de-en:1", "de-en", GERMAN, ENGLISH)
    cleaner = Cleaner(Cleaning(steps=["near"]), LANGUAGES, frozenset())
    cleaner.remember([row])
    assert cleaner.pairs([row]) == []


def test_hash_set_is_a_set() -> None:
    draw, seen, known = np.random.default_rng(0), HashSet(), set[int]()
    for _ in range(40):
        batch = draw.integers(0, 3000, 500).astype(np.uint64)
        expected = [not (value in known or known.add(value)) for value in batch.tolist()]  # type: ignore[func-returns-value]
        assert seen.add(batch).tolist() == expected
    assert len(seen) == len(known)
