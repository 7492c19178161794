"""Languages and scripts of texts."""

import pytest

from alma_pipeline.ml.data.language_id import detect_language, in_script, is_other_language


@pytest.mark.parametrize(
    ("text", "script"), [("日本語の文", "Jpan"), ("中文", "Hans"), ("שלום", "Hebr"), ("گربه", "Arab"), ("WHO 世界", "Latn")]
)
def test_scripts(text: str, script: str) -> None:
    assert in_script(text, script) and not in_script(text, "Thai")


def test_vowel_signs_belong_to_their_script() -> None:
    assert in_script("iPhone में दिन", "Deva") and in_script("วันที่ดี Hello", "Thai")
    assert in_script("nai\u0308ve", "Latn") and not in_script("iPhone में", "Deva")


def test_a_text_without_letters_or_of_an_unknown_script_passes() -> None:
    assert in_script("12:30", "Thai") and in_script("text", "Xxxx")


def test_languages() -> None:
    assert detect_language("Der Zug nach Leipzig fährt heute eine halbe Stunde später ab.") == "de"
    assert detect_language("12:30") is None
    german = "Der Zug nach Leipzig fährt heute eine halbe Stunde später ab."
    assert is_other_language(german, "en", 0.9) and not is_other_language(german, "de", 0.9)
    assert not is_other_language(german, "tlh", 0.9), "the model does not know Klingon"
