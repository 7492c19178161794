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
from alma_pipeline.ml.data.cldr import PHRASES_PER_DOCUMENT, Cldr, check_revision, one_target_each, phrases
from alma_pipeline.ml.data.cldr_templates import TEMPLATES, Untranslated, distance, measure
from alma_pipeline.schema import Source

LOCALES = {"en": "en", "de": "de", "cs": "cs"}


@pytest.fixture(scope="module")
def text() -> Cldr:
    return Cldr(LOCALES, seed=1)


def test_every_phrase_has_its_own_id_and_every_split_gets_its_share() -> None:
    ids = [phrase.id for phrase in phrases()]
    assert len(set(ids)) == len(ids) > 5000
    shares = Counter(phrase.split for phrase in phrases())
    for split, per_cent in cldr.SPLITS.items():
        assert abs(100 * shares[split] / len(ids) - per_cent) < 2
    assert {phrase.template for phrase in phrases() if phrase.split == "test"} == set(TEMPLATES)


def test_the_split_is_the_same_in_another_process() -> None:
    command = "from alma_pipeline.ml.cldr import phrases; print([(p.id, p.split) for p in phrases()][:400])"
    out = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([(phrase.id, phrase.split) for phrase in phrases()][:400])


def test_another_language_set_moves_no_pair(text: Cldr) -> None:
    other = Cldr({"pl": "pl", "de": "de", "en": "en"}, seed=1)
    for split in cldr.SPLITS:
        assert text.pairs("de", "en", split)[0] == other.pairs("de", "en", split)[0]


def test_the_seed_orders_training_pairs_and_leaves_held_out_text_alone(text: Cldr) -> None:
    other = Cldr(LOCALES, seed=2)
    one, two = text.pairs("de", "en", "train")[0], other.pairs("de", "en", "train")[0]
    assert one != two and set(one) == set(two)
    for split in ("dev", "test"):
        assert text.pairs("de", "en", split)[0] == other.pairs("de", "en", split)[0]
    assert text.documents("de", "dev")[0] == other.documents("de", "dev")[0]
    assert text.documents("de", "train")[0] != other.documents("de", "train")[0]


@pytest.mark.parametrize("direction", [("de", "en"), ("en", "de"), ("cs", "en"), ("en", "cs")])
def test_a_source_has_one_target_and_a_limit_takes_the_beginning(text: Cldr, direction: tuple[str, str]) -> None:
    pairs, dropped = text.pairs(*direction, "train")
    assert len({pair.source for pair in pairs}) == len(pairs)
    assert len(pairs) + sum(dropped.values()) == sum(phrase.split == "train" for phrase in phrases())
    assert text.pairs(*direction, "train", limit=50)[0] == pairs[:50]


def test_no_text_of_a_split_stands_in_another_in_any_language(text: Cldr) -> None:
    seen = {
        split: {side for code in ("de", "cs") for pair in text.pairs(code, "en", split)[0] for side in (pair.source, pair.target)}
        for split in cldr.SPLITS
    }
    assert not seen["test"] & seen["train"]
    assert not seen["test"] & seen["dev"]
    assert not seen["dev"] & seen["train"]


def test_a_text_of_an_earlier_split_is_dropped_and_counted() -> None:
    """Bulgarian and Ukrainian share wording with other languages in dates: real collisions over all of these."""
    codes = {"en": "en", "bg": "bg", "mk": "mk", "uk": "uk", "ru": "ru", "sr": "sr_Cyrl"}
    text = Cldr(codes, seed=1)
    lost = sum((text.pairs(code, "en", split)[1] for code in codes if code != "en" for split in cldr.SPLITS), Counter())
    assert lost["leak"] > 0
    test = {text.text(code, phrase) for code in codes for phrase in phrases() if phrase.split == "test"}
    for code in codes:
        if code != "en":
            assert not test & {pair.source for pair in text.pairs(code, "en", "train")[0]}


def test_conflicts_and_duplicates_keep_the_first_target() -> None:
    kept, dropped = one_target_each([("1", "a", "x"), ("2", "a", "y"), ("3", "a", "x"), ("4", "b", "x")], None)
    assert [(pair.id, pair.source, pair.target) for pair in kept] == [("1", "a", "x"), ("4", "b", "x")]
    assert dropped == {"conflict": 1, "duplicate": 1}


def test_words_a_locale_lacks_are_skipped_never_shown_raw() -> None:
    """Babel answers with the unit's id, or the root locale's `-5 m`, where a locale has no wording."""
    with pytest.raises(Untranslated):
        measure(Locale("zh", script="Hans"), 12, "length-kilometer")
    with pytest.raises(Untranslated):
        distance(Locale("mg"), -1, 5, "month")
    text = Cldr({"en": "en", "mg": "mg", "zh": "zh_Hans"}, seed=1)
    for code in ("mg", "zh"):
        pairs, dropped = text.pairs(code, "en", "train")
        assert dropped["untranslated"] > 500
        assert not [pair.source for pair in pairs if re.search(r"[a-z]+-[a-z]+$|M\d\d|^[+-]\d", pair.source)]


def test_phrases_are_aligned_by_value(text: Cldr) -> None:
    pairs = {pair.id: pair for pair in text.pairs("de", "en", "train")[0]}
    years = [pair for name, pair in pairs.items() if name.startswith("date:")]
    assert len(years) > 500
    assert all(re.findall(r"\d{4}", pair.source) == re.findall(r"\d{4}", pair.target) for pair in years)
    assert cldr.Cldr({"en": "en", "de": "de"}, 1).text("de", _phrase("measure")) == "12 Kilometer"


def _phrase(name: str) -> cldr.Phrase:
    template = next(template for template in TEMPLATES if template.name == name)
    return cldr.Phrase(template, (12, "length-kilometer"), "x")


def test_texts_are_one_line_with_plain_spaces(text: Cldr) -> None:
    for code in LOCALES:
        for phrase in phrases()[::7]:
            said = text.text(code, phrase)
            assert said is None or (said == said.strip() and not re.search(r"[^\S ]|  ", said))


def test_documents_hold_phrases_of_their_split_once_in_an_order_of_the_language(text: Cldr) -> None:
    train, _ = text.documents("cs", "train")
    lines = [line for document in train for line in document.text.split("\n")]
    assert all(document.text.count("\n") == PHRASES_PER_DOCUMENT - 1 for document in train)
    assert len(set(lines)) == len(lines)
    held_out = {line for document in text.documents("cs", "dev")[0] for line in document.text.split("\n")}
    assert held_out and not held_out & set(lines)
    assert not {pair.source for pair in text.pairs("cs", "en", "test")[0]} & (held_out | set(lines))
    assert text.documents("cs", "train", limit=3)[0] == train[:3]
    years = [set(re.findall(r"20[0-2]\d", document.text)) for document in train]
    assert sum(len(year) == 1 for year in years) > 3 * sum(len(year) > 1 for year in years)


def test_documents_of_two_languages_are_not_aligned(text: Cldr) -> None:
    numbers = [[re.findall(r"\d+", document.text) for document in text.documents(code, "train")[0]] for code in ("de", "cs")]
    same = sum(one in numbers[1] for one in numbers[0] if len(one) > 2)
    assert same < len(numbers[0]) / 20


def test_the_installed_babel_must_be_the_one_named() -> None:
    check_revision(Source(revision=babel.__version__))
    check_revision(Source(revision=f"babel-{babel.__version__}"))
    for revision in ("1.0", None):
        with pytest.raises(UserError, match=rf"revision={revision or 'null'}.*Babel {re.escape(babel.__version__)}"):
            check_revision(Source(revision=revision))


def test_training_pairs_of_four_languages_take_seconds() -> None:
    start = time.process_time()
    text = Cldr({code: code for code in ("en", "de", "nl", "cs", "pl")}, seed=1)
    count = sum(len(text.pairs(code, "en", "train", limit=1500)[0]) for code in ("de", "nl", "cs", "pl"))
    assert count == 6000
    assert time.process_time() - start < 6
