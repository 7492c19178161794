"""Sources in another language than their direction says: seen in whole sentences, never in short and mixed lines."""

import pytest

from alma_pipeline.translation.segments import Segment
from alma_pipeline.translation.source_languages import other_languages, warnings
from helpers.plans import loaded

LANGUAGES = loaded().languages
FITTING = """
de 3. Mai
de OK
de Das Haus ist klein.
de New York Times
de The house is small.
de Terminator 2: Judgment Day
de Microsoft Office 365 Business Premium
de http://www.example.com/index.html?id=3
de SELECT * FROM users WHERE name = 'x';
de Wir haben heute ein Meeting mit dem Sales-Team und dem Head of Product Management.
de Bitte klicken Sie auf "Save as" und dann auf "Export to PDF".
de Mein Freund sagte "I don't know what you are talking about, please leave me alone".
de He said: "Das ist nicht gut." and left the room after a short while.
de Sein Lieblingssong ist "You Can't Always Get What You Want" von den Rolling Stones.
en Angela Merkel besuchte gestern Paris.
en Real Madrid beat Bayern Munich 2-1 in the Champions League final.
en Lorem ipsum dolor sit amet, consectetur adipiscing elit.
cs Dom je malý a biely, stojí na konci ulice.
zh 我们今天去北京。
ru Дом маленький.
no Huset er lite.
"""
OTHER = """
de en The committee met on Tuesday to discuss the new budget proposal for the coming year.
de nl De commissie kwam dinsdag bijeen om het nieuwe begrotingsvoorstel te bespreken.
en de Schadenfreude ist die schönste Freude, sagt man in Deutschland.
ru uk Будинок маленький, і ми йдемо туди завтра вранці.
zh en The committee met on Tuesday to discuss the new budget proposal for the coming year.
zh en The committee met on Tuesday.
de en Please find attached the minutes of yesterday's meeting in the town hall.
de en She opened the window because it was too warm in the room.
zh ja 今日は東京に行きます。明日は京都に行きます。
"""


@pytest.mark.parametrize("case", FITTING.strip().splitlines())
def test_what_fits_or_is_short_or_mixed_is_no_alarm(case: str) -> None:
    code, _, line = case.partition(" ")
    assert other_languages([(f"{code}-en", line)], LANGUAGES) == [""]


@pytest.mark.parametrize("case", OTHER.strip().splitlines())
def test_a_sentence_in_another_language_is_seen(case: str) -> None:
    code, other, line = case.split(" ", 2)
    assert other_languages([(f"{code}-en", line)], LANGUAGES) == [other]


def test_the_warning_counts_and_names_the_lines() -> None:
    german = "Der Ausschuss traf sich am Dienstag, um über den neuen Haushalt zu beraten."
    english = "The committee met on Tuesday to discuss the new budget proposal for the coming year."
    found = [Segment("de-en", english if number <= 12 else german, "in.txt", number) for number in range(1, 41)]
    others = other_languages([(segment.direction, segment.text) for segment in found], LANGUAGES)
    said = "12 of 40 sources look like English, not German (in.txt, lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more)"
    assert list(warnings(found, others, LANGUAGES)) == [said]
