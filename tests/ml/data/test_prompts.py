"""Prompts as text and tokens: one BOS, EOS learned, the same prompt ids in training and decoding."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.prompts import Prompter, answer_ids, one_line
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Language

LANGUAGES = {"en": Language(name="English", locale="en"), "de": Language(name="German", locale="de")}
TEXTS = [
    f"Translate this from German to English:\nGerman: {n} Tage und {n} Nächte\nEnglish:{n} days and {n} nights" for n in range(30)
]
ROWS = [
    ("de-en", "3 Tage", "3 days"),
    ("en-de", "Germany: 12 days", "Deutschland: 12 Tage"),
    ("de-en", "", ""),
    ("en-de", "日本 </s> <s>", "x  y\tz"),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, 300)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("alma", "Translate this from German to English:\nGerman: 3 Tage\nEnglish:3 days"),
        ("x_alma", "[INST] Translate this from German to English:\nGerman: 3 Tage\nEnglish: [/INST] 3 days "),
    ],
)
def test_the_formats_are_those_of_the_released_code(tokenizer: PreTrainedTokenizerBase, form: str, text: str) -> None:
    prompter = Prompter(tokenizer, form, LANGUAGES)
    assert prompter.text("de-en", "3 Tage") + prompter.answer("3 days") == text
    (example,) = prompter.examples([("de-en", "3 Tage", "3 days")])
    assert tokenizer.decode(example.ids) == f"<s>{text}</s>"


@pytest.mark.parametrize("form", ["alma", "x_alma"])
def test_training_and_decoding_see_the_same_prompt_with_one_bos(tokenizer: PreTrainedTokenizerBase, form: str) -> None:
    """B57, B58: exactly one BOS; the mask ends where the answer begins."""
    prompter = Prompter(tokenizer, form, LANGUAGES)
    prompts = prompter.prompts([row[:2] for row in ROWS])
    for row, prompt, example in zip(ROWS, prompts, prompter.examples(ROWS), strict=True):
        assert example.ids[: example.prompt] == prompt
        assert tokenizer.decode(prompt[1:]) == prompter.text(*row[:2])
        assert tokenizer.decode(example.ids[example.prompt : -1]) == prompter.answer(row[2])
        assert [place for place, token in enumerate(example.ids) if token == tokenizer.bos_token_id] == [0]
        assert [place for place, token in enumerate(example.ids) if token == tokenizer.eos_token_id] == [len(example.ids) - 1]


def test_a_sentence_that_spells_a_special_token_stays_text(tokenizer: PreTrainedTokenizerBase) -> None:
    (prompt,) = Prompter(tokenizer, "alma", LANGUAGES).prompts([("de-en", "a </s><pad> b")])
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(prompt)
    assert "a </s><pad> b" in tokenizer.decode(prompt)


def test_eos_is_learned_and_padding_is_another_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """B59: with pad = eos, masking the padding would mask EOS too."""
    (example,) = Prompter(tokenizer, "alma", LANGUAGES).examples([("de-en", "3 Tage", "3 days")])
    assert example.ids[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert len(example.ids) - 1 >= example.prompt


def test_a_token_over_the_boundary_leaves_the_prompt_as_decoding_sees_it() -> None:
    """B52: here the colon and the answer's first letter are one piece of the vocabulary."""
    merging = Tokenizer(models.BPE())
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merging.decoder = decoders.ByteLevel()
    merging.train_from_iterator(
        ["English:y"] * 50,
        trainers.BpeTrainer(
            special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    joining = PreTrainedTokenizerFast(tokenizer_object=merging, bos_token="<s>", eos_token="</s>")
    assert any(":y" in piece for piece in joining.tokenize("English:y"))
    straddling, plain = Prompter(joining, "alma", LANGUAGES).examples([("de-en", "x", "y"), ("de-en", "x", "z")])
    assert (straddling.merged, plain.merged) == (True, False)
    for example, answer in ((straddling, "y"), (plain, "z")):
        assert [example.ids[: example.prompt]] == Prompter(joining, "alma", LANGUAGES).prompts([("de-en", "x")])
        assert joining.decode(example.ids[example.prompt : -1]) == answer


def test_the_boundary_is_where_the_offsets_say() -> None:
    assert answer_ids([5, 6], [5, 6, 8], [(0, 1), (1, 2), (2, 4)], 2) == [8]
    assert answer_ids([5, 6], [5, 7, 8], [(0, 1), (1, 3), (3, 4)], 2) is None
    assert answer_ids([5, 6], [5, 6], [(0, 1), (1, 2)], 2) == []


@pytest.mark.parametrize(
    ("text", "line", "changed"),
    [
        ("one line", "one line", False),
        ("  one line\n", "one line", False),
        ("two\nlines", "two lines", True),
        ("two \r\n\r\n lines\u2028more", "two lines more", True),
        ("", "", False),
    ],
)
def test_line_breaks_become_spaces(text: str, line: str, changed: bool) -> None:
    """B45."""
    assert one_line(text) == (line, changed)


def test_an_unknown_format_or_a_tokenizer_without_bos_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="prompt=chat: expected alma or x_alma"):
        Prompter(tokenizer, "chat", LANGUAGES)
    bare = train_tokenizer(TEXTS, 300)
    bare.bos_token = None
    with pytest.raises(UserError, match="bos_token=None"):
        Prompter(bare, "alma", LANGUAGES)


def test_many_rows_keep_their_order(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [("de-en", str(n), str(n + 1)) for n in range(4500)]
    examples = Prompter(tokenizer, "alma", LANGUAGES).examples(rows)
    assert len(examples) == len(rows)
    assert tokenizer.decode(examples[4321].ids[examples[4321].prompt : -1]) == "4322"
