"""Planted hypotheses are found, at the rate at which they were planted, and sound ones are not."""

import re

import pytest

from alma_pipeline.ml.data import language_id
from alma_pipeline.ml.scoring import guards
from alma_pipeline.paths import CONF


@pytest.mark.parametrize(
    "text",
    [
        "the cat the cat the cat the cat the cat",
        "ja, ja, ja, ja, ja, ja,",
        "2000000000000000000000000",
        "明天去明天去明天去明天去明天去",
        "A long sentence that comes back. " * 5,
        "It began well. And then" + " and then" * 4,
    ],
)
def test_a_loop_is_one(text: str) -> None:
    assert guards.has_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "hahaha",
        "1000000",
        "The cat sat on the mat, and the dog on the rug.",
        "very, very, very good",
        "ab" * 5,
        "去去去",
    ],
)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert not guards.has_loop(text)


def test_a_loop_that_the_reference_has_too_is_no_fault() -> None:
    line = "0,000000000000001"
    assert not guards.guard_flags("a", line, line, "de").repetition
    assert guards.guard_flags("a", "null", line, "de").repetition


def test_planted_faults_are_found_at_their_rate() -> None:
    """Of 100 hypotheses 7 are copies, 5 empty, 3 loops and 2 cut off; the other 83 are sound."""
    planted = [("copy", 7), ("empty", 5), ("loop", 3), ("cut", 2), ("sound", 83)]
    texts = {"copy": "source {}", "empty": " ", "loop": "Wort " * 9, "cut": "Satz {} und", "sound": "Satz {}"}
    found = [
        guards.guard_flags(f"source {number}", f"Satz Nummer {number}", texts[fault].format(number), "de", fault == "cut")
        for fault, count in planted
        for number in range(count)
    ]
    rates = {
        name: guards.percentage(getattr(item, name) for item in found)
        for name in ("copy", "empty", "repetition", "truncated", "exact")
    }
    assert rates == {"copy": 7, "empty": 5, "repetition": 3, "truncated": 2, "exact": 0}


def test_what_cannot_be_told_does_not_count() -> None:
    assert guards.guard_flags("12", "12", "12", "de").copy is None and guards.guard_flags("a", "b", "c", "de").truncated is None
    assert guards.guard_flags("a", "b", "12:30", "de").off_target is None, "a time is the same in many languages"
    assert guards.percentage([True, None, False, None]) == 50
    assert guards.percentage([None]) is None and guards.percentage([]) is None
    assert guards.length_ratio(["abc"], [""]) is None and guards.length_ratio(["abc", ""], ["ab", "cd"]) == 0.75


SENTENCES = {
    "de": "Die Kommission trifft sich am kommenden Dienstag.",
    "en": "The committee is going to meet next Tuesday.",
    "nl": "De commissie komt aanstaande dinsdag bij elkaar.",
    "cs": "Výbor se sejde příští úterý dopoledne.",
    "pl": "Komisja spotka się w przyszły wtorek.",
    "zh": "委员会将于下星期二开会。",
    "ja": "委員会は来週の火曜日に開かれます。",
    "ru": "Комитет соберётся в следующий вторник.",
    "no": "Komiteen møtes neste tirsdag formiddag.",
    "sr": "Одбор ће се састати следећег уторка.",
}


@pytest.mark.parametrize("target", SENTENCES)
def test_wrong_language_lines_are_found_at_the_planted_rate(target: str) -> None:
    """Nine sentences in other languages among 21 in the right one."""
    lines = list(SENTENCES.values()) + [SENTENCES[target]] * 20
    found = [guards.guard_flags("source", "reference", line, target) for line in lines]
    assert guards.percentage(item.off_target for item in found) == pytest.approx(100 * 9 / 30)
    assert [item.language for item in found[:10]] == list(SENTENCES)


def test_every_language_of_the_recipe_can_be_recognised() -> None:
    codes = re.findall(r'^"?(\w+)"?: \{name', (CONF / "languages" / "x_alma.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(codes) == 50 and [code for code in codes if not language_id.is_supported(code)] == []
