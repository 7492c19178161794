"""CLDR phrases: split, aligned, checked against the installed Babel."""

import re
import subprocess
import sys
import time
from collections import Counter

import babel
import pytest
from babel import Locale

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data import cldr
from alma_pipeline.ml.data.cldr import (
    PHRASES_PER_DOCUMENT,
    CldrReader,
    Phrasebook,
    check_revision,
    first_targets,
    open_cldr,
    phrases,
)
from alma_pipeline.ml.data.cldr_templates import TEMPLATES, Untranslated, distance, measure
from alma_pipeline.ml.data.rows import Document, SentencePair
from alma_pipeline.schema import Language, Source

CODES = ("en", "de", "cs")


def a_book(*codes: str, seed: int = 1, **locales: str) -> Phrasebook:
    return Phrasebook({code: Language(name=code, locale=locales.get(code, code)) for code in codes}, seed)


@pytest.fixture(scope="module")
def book() -> Phrasebook:
    return a_book(*CODES)


def pairs(book: Phrasebook, direction: str, split: str, limit: int | None = None) -> list[SentencePair]:
    return list(CldrReader(book, split, limit).pairs(direction))


def documents(book: Phrasebook, code: str, split: str, limit: int | None = None) -> list[Document]:
    return list(CldrReader(book, split, limit).documents(code))


def lost(book: Phrasebook, direction: str, split: str) -> Counter[str]:
    """What is dropped when all pairs are read."""
    stream = CldrReader(book, split).pairs(direction)
    assert list(stream)
    return stream.dropped


def test_every_phrase_has_its_own_id_and_every_split_gets_its_share() -> None:
    ids = [phrase.id for phrase in phrases()]
    assert len(set(ids)) == len(ids) > 5000
    shares = Counter(phrase.split for phrase in phrases())
    for split, per_cent in cldr.SPLITS.items():
        assert abs(100 * shares[split] / len(ids) - per_cent) < 2
    assert {phrase.template for phrase in phrases() if phrase.split == "test"} == set(TEMPLATES)


def test_the_split_is_the_same_in_another_process() -> None:
    command = "from alma_pipeline.ml.data.cldr import phrases; print([(p.id, p.split) for p in phrases()][:400])"
    out = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([(phrase.id, phrase.split) for phrase in phrases()][:400])


def test_another_language_set_moves_no_pair(book: Phrasebook) -> None:
    other = a_book("pl", "de", "en")
    for split in cldr.SPLITS:
        assert pairs(book, "de-en", split) == pairs(other, "de-en", split)


def test_the_seed_orders_training_pairs_and_leaves_held_out_text_alone(book: Phrasebook) -> None:
    other = a_book(*CODES, seed=2)
    one, two = pairs(book, "de-en", "train"), pairs(other, "de-en", "train")
    assert one != two and set(one) == set(two)
    for split in ("dev", "test"):
        assert pairs(book, "de-en", split) == pairs(other, "de-en", split)
    assert documents(book, "de", "dev") == documents(other, "de", "dev")
    assert documents(book, "de", "train") != documents(other, "de", "train")


@pytest.mark.parametrize("direction", ["de-en", "en-de", "cs-en", "en-cs"])
def test_a_source_has_one_target_and_a_limit_takes_the_beginning(book: Phrasebook, direction: str) -> None:
    found = pairs(book, direction, "train")
    assert len({pair.source for pair in found}) == len(found)
    assert len(found) + lost(book, direction, "train").total() == sum(phrase.split == "train" for phrase in phrases())
    assert pairs(book, direction, "train", limit=50) == found[:50]


def test_a_stream_goes_on_from_any_row_and_counts_what_is_dropped_up_to_its_limit() -> None:
    """What a killed preparation relies on; beyond the limit nothing is made, and nothing counted."""
    found, limited = a_book("en", "mg"), 300
    whole = CldrReader(found, "train", limited).pairs("mg-en")
    rows = list(whole)
    assert len(rows) == whole.position == limited
    assert 0 < whole.dropped["untranslated"] < lost(found, "mg-en", "train")["untranslated"]
    rest = CldrReader(found, "train", limited).pairs("mg-en", skip=170)
    assert rest.position == 170 and list(rest) == rows[170:] and rest.position == limited
    assert rest.dropped == whole.dropped
    texts = CldrReader(found, "train", 40).documents("mg", skip=15)
    assert list(texts) == documents(found, "mg", "train", 40)[15:] and texts.position == 40


def test_no_text_of_a_split_stands_in_another_in_any_language(book: Phrasebook) -> None:
    seen = {
        split: {side for code in ("de", "cs") for pair in pairs(book, f"{code}-en", split) for side in (pair.source, pair.target)}
        for split in cldr.SPLITS
    }
    assert not seen["test"] & seen["train"]
    assert not seen["test"] & seen["dev"]
    assert not seen["dev"] & seen["train"]


def test_a_text_of_an_earlier_split_is_dropped_and_counted() -> None:
    """Bulgarian and Ukrainian share wording with other languages in dates: real collisions over all of these."""
    found = a_book("en", "bg", "mk", "uk", "ru", "sr", sr="sr_Cyrl")
    others = [code for code in found.codes if code != "en"]
    dropped = sum((lost(found, f"{code}-en", split) for code in others for split in cldr.SPLITS), Counter[str]())
    assert dropped["leak"] > 0
    test = {found.text(code, phrase) for code in found.codes for phrase in phrases() if phrase.split == "test"}
    for code in others:
        assert not test & {pair.source for pair in pairs(found, f"{code}-en", "train")}


def test_conflicts_and_duplicates_keep_the_first_target() -> None:
    rows = [("1", "a", "x"), ("2", "a", "y"), ("3", "a", "x"), ("4", "b", "x")]
    dropped = Counter[str]()
    kept = list(first_targets([SentencePair(name, "de-en", source, target) for name, source, target in rows], dropped))
    assert [(pair.id, pair.source, pair.target) for pair in kept] == [("1", "a", "x"), ("4", "b", "x")]
    assert dropped == {"conflict": 1, "duplicate": 1}


def test_a_pair_is_joined_in_an_order_of_its_own_that_reading_does_not_change(book: Phrasebook) -> None:
    """Joining asks neither in what order the pairs come nor whether those before them were read: a preparation may resume."""
    text = CldrReader(book, "train", 200, CldrReader(book, "dev", 30))
    rows = [*text.pairs("de-en"), *CldrReader(book, "dev", 30).pairs("cs-en")]
    joined = {pair.id: text.join(pair) for pair in rows}
    for pair in rows:
        line = joined[pair.id]
        swapped = line.language.startswith("en-")
        assert line.text == (f"{pair.target} {pair.source}" if swapped else f"{pair.source} {pair.target}")
        assert line.id == f"{line.language}:{pair.id.partition(':')[2]}"
    first = sum(line.language.startswith("en-") for line in joined.values())
    assert 0.35 < first / len(rows) < 0.65
    again = CldrReader(book, "train", 200, CldrReader(book, "dev", 30))
    assert [again.join(pair) for pair in reversed(rows)] == [joined[pair.id] for pair in reversed(rows)]


def test_words_a_locale_lacks_are_skipped_never_shown_raw() -> None:
    """Babel answers with the unit's id, or the root locale's `-5 m`, where a locale has no wording."""
    with pytest.raises(Untranslated):
        measure(Locale("zh", script="Hans"), 12, "length-kilometer")
    with pytest.raises(Untranslated):
        distance(Locale("mg"), -1, 5, "month")
    found = a_book("en", "mg", "zh", zh="zh_Hans")
    for code in ("mg", "zh"):
        assert lost(found, f"{code}-en", "train")["untranslated"] > 500
        assert not [
            pair.source for pair in pairs(found, f"{code}-en", "train") if re.search(r"[a-z]+-[a-z]+$|M\d\d|^[+-]\d", pair.source)
        ]


def test_phrases_are_aligned_by_value(book: Phrasebook) -> None:
    years = [pair for pair in pairs(book, "de-en", "train") if pair.id.startswith("de-en:date:")]
    assert len(years) > 500
    assert all(re.findall(r"\d{4}", pair.source) == re.findall(r"\d{4}", pair.target) for pair in years)
    assert a_book("en", "de").text("de", _phrase("measure")) == "12 Kilometer"


def _phrase(name: str) -> cldr.Phrase:
    template = next(template for template in TEMPLATES if template.name == name)
    return cldr.Phrase(template, (12, "length-kilometer"), "x")


def test_texts_are_one_line_with_plain_spaces(book: Phrasebook) -> None:
    for code in CODES:
        for phrase in phrases()[::7]:
            said = book.text(code, phrase)
            assert said is None or (said == said.strip() and not re.search(r"[^\S ]|  ", said))


def test_documents_hold_phrases_of_their_split_once_in_an_order_of_the_language(book: Phrasebook) -> None:
    train = documents(book, "cs", "train")
    lines = [line for document in train for line in document.text.split("\n")]
    assert all(document.text.count("\n") == PHRASES_PER_DOCUMENT - 1 for document in train)
    assert len(set(lines)) == len(lines)
    held_out = {line for document in documents(book, "cs", "dev") for line in document.text.split("\n")}
    assert held_out and not held_out & set(lines)
    assert not {pair.source for pair in pairs(book, "cs-en", "test")} & (held_out | set(lines))
    assert documents(book, "cs", "train", limit=3) == train[:3]
    years = [set(re.findall(r"20[0-2]\d", document.text)) for document in train]
    assert sum(len(year) == 1 for year in years) > 3 * sum(len(year) > 1 for year in years)


def test_documents_of_two_languages_are_not_aligned(book: Phrasebook) -> None:
    numbers = [[re.findall(r"\d+", document.text) for document in documents(book, code, "train")] for code in ("de", "cs")]
    same = sum(one in numbers[1] for one in numbers[0] if len(one) > 2)
    assert same < len(numbers[0]) / 20


def test_a_training_text_keeps_its_dev_split_apart(book: Phrasebook) -> None:
    source = Source(revision=babel.__version__)
    text = open_cldr(source, "train", book, 50, 8)
    assert text.held_out and list(text.held_out.pairs("de-en")) == pairs(book, "de-en", "dev", 8)
    assert open_cldr(Source(revision=babel.__version__, split="test"), "test", book, 50).held_out is None
    with pytest.raises(UserError, match="reader=cldr, split=train: expected split=test"):
        open_cldr(source, "test", book, 50)


def test_the_installed_babel_must_be_the_one_named() -> None:
    check_revision(Source(revision=babel.__version__))
    check_revision(Source(revision=f"babel-{babel.__version__}"))
    for revision in ("1.0", None):
        with pytest.raises(UserError, match=rf"revision={revision or 'null'}.*Babel {re.escape(babel.__version__)}"):
            check_revision(Source(revision=revision))


def test_training_pairs_of_four_languages_take_seconds() -> None:
    start = time.process_time()
    found = a_book("en", "de", "nl", "cs", "pl")
    count = sum(len(pairs(found, f"{code}-en", "train", limit=1500)) for code in ("de", "nl", "cs", "pl"))
    assert count == 6000
    assert time.process_time() - start < 6
