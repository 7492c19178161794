"""The traps of published tokenizers, each as its family has it."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import LlamaConfig, PreTrainedTokenizerFast

from alma_pipeline.errors import UserError
from alma_pipeline.ml.models.tokenizer import ensure_pad_token, normalise_special_tokens

WORDS = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}


def tokenizer(*added: AddedToken, **special: str) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(WORDS, unk_token="<unk>")), **special)
    made.add_tokens(list(added))
    return made


def spare(text: str) -> AddedToken:
    return AddedToken(text, special=True)


def config(rows: int = 9, **settings: Any) -> LlamaConfig:
    return LlamaConfig(vocab_size=rows, **settings)


BOTH = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("made", "pad"),
    [
        (tokenizer(**BOTH, unk_token="<unk>"), "<unk>"),  # Llama 1 and 2
        (tokenizer(**BOTH, unk_token="<unk>", pad_token="</s>"), "<unk>"),  # pad = EOS, as many recipes set it (B59)
        (tokenizer(spare("<|reserved_special_token_0|>"), **BOTH), "<|reserved_special_token_0|>"),  # Llama 3
        (tokenizer(spare("<|reserved_special_token_0|>"), spare("<|right_pad_id|>"), **BOTH), "<|right_pad_id|>"),  # 3.1, nearly
        (tokenizer(**BOTH, pad_token="a"), "a"),  # one of its own is kept
    ],
)  # fmt: skip
def test_a_pad_token_that_is_neither_bos_nor_eos(made: PreTrainedTokenizerFast, pad: str) -> None:
    found = normalise_special_tokens(made, config())
    assert found.pad_token == pad
    assert found.pad_token_id not in (found.bos_token_id, found.eos_token_id) and found.pad_token_id < 9


def test_a_pad_token_beyond_the_embeddings_is_not_taken() -> None:
    """Added without resizing the model, as tutorials for Llama-2 have it."""
    made = tokenizer(**BOTH, unk_token="<unk>", pad_token="[PAD]")
    assert made.pad_token_id == 5
    assert normalise_special_tokens(made, config(rows=5)).pad_token == "<unk>"


def test_bos_comes_from_the_model_where_the_tokenizer_has_none() -> None:
    """Qwen: its config.json has a BOS, its tokenizer has none; in the base models it is EOS too."""
    found = normalise_special_tokens(
        tokenizer(spare("<|vision_pad|>"), eos_token="</s>", pad_token="</s>"), config(bos_token_id=1)
    )
    assert (found.bos_token, found.eos_token, found.pad_token) == ("</s>", "</s>", "<|vision_pad|>")


@pytest.mark.parametrize(
    ("made", "rows", "said"),
    [
        (tokenizer(**BOTH, pad_token="</s>"), 9, "pad_token is '</s>'; expected one that is neither EOS nor BOS"),
        (tokenizer(**BOTH), 9, "pad_token is None; expected one"),
        (tokenizer(eos_token="</s>"), 9, "bos_token=None"),
        (
            tokenizer(AddedToken("Straße"), **BOTH, unk_token="<unk>"),
            5,
            r"1 tokens beyond the model's 5 embeddings .*up to 5, .*Straße",
        ),
        (tokenizer(**BOTH, unk_token="<unk>"), 4, r"1 tokens beyond the model's 4 embeddings \(vocab_size\), with ids up to 4"),
        (tokenizer(bos_token="<s>", eos_token="<|end|>", unk_token="<unk>"), 5, r"ids up to 5, e.g. \['<\|end\|>'\]"),
    ],
)
def test_what_cannot_be_made_sound(made: PreTrainedTokenizerFast, rows: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        normalise_special_tokens(made, config(rows, bos_token_id=None))


def test_without_a_model_the_rows_are_not_known() -> None:
    assert ensure_pad_token(tokenizer(**BOTH, unk_token="<unk>")).pad_token == "<unk>"
