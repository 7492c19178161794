"""The tokenizer a fresh model gets."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.ml.models.tokenizer import BOS, EOS, PAD, SMALLEST, train_tokenizer

TEXTS = [f"Translate this from German to English:\nGerman: {n} Nächte\nEnglish:{n} nights" for n in range(40)]
SAVE = """
import sys
from alma_pipeline.ml.models.tokenizer import train_tokenizer
texts = [f"Translate this from German to English:\\nGerman: {n} Nächte\\nEnglish:{n} nights" for n in range(40)]
train_tokenizer(iter(texts), 300).save_pretrained(sys.argv[1])
"""


def test_saved_and_read_back_it_adds_bos_once_and_pads_with_its_own_token(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 300
    ids = tokenizer("12 Nächte").input_ids
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, EOS, PAD)
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


def test_the_same_text_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "2")):
        environment = {"PYTHONHASHSEED": seed, "PATH": "", "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / name)], check=True, env=environment)
    train_tokenizer(TEXTS, 300).save_pretrained(tmp_path / "c")
    assert len({(tmp_path / name / "tokenizer.json").read_bytes() for name in "abc"}) == 1


@pytest.mark.parametrize("text", ["", " a  b ", "3. května 2019 , 20:15", "日本語\n\tñ", "€½ \u202f!", "a </s> b"])
def test_every_text_survives(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text


def test_digits_stand_alone_and_the_prompt_is_cheap() -> None:
    tokenizer = train_tokenizer(TEXTS, 306)
    pieces = tokenizer.tokenize("German: 2019 Nächte")
    assert [piece for piece in pieces if piece.isdigit()] == ["2", "0", "1", "9"]
    assert len(tokenizer.tokenize("Translate this from German to English:")) == 1


def test_a_vocabulary_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(UserError, match=rf"vocab_size=100.*at least {SMALLEST}"):
        train_tokenizer(TEXTS, 100)
    with pytest.raises(UserError, match=r"vocab_size=5000.*only \d+ pieces"):
        train_tokenizer(TEXTS, 5000)
