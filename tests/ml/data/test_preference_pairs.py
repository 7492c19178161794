"""Triples become token sequences through the real prompts and a real tokenizer, trained here."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data import preference_pairs as pairs_module
from alma_pipeline.ml.data.preference_pairs import PairLimits, PreferencePairs, make_pair, read_pairs
from alma_pipeline.ml.data.prompts import Example, Prompter
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Language

LANGUAGES = {
    "en": Language(name="English", locale="en", nllb="eng_Latn"),
    "de": Language(name="German", locale="de", nllb="deu_Latn"),
}
WIDE = PairLimits(prompt=256, length=512)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["Der Zug kommt um 7 Uhr an.", "The train arrives at 7 o'clock."], 280)


@pytest.fixture
def prompter(tokenizer: PreTrainedTokenizerBase) -> Prompter:
    return Prompter(tokenizer, "alma", LANGUAGES)


def triple(source: str = "Der Zug.", chosen: str = "The train.", rejected: str = "A car.") -> dict[str, Any]:
    return {"id": "1", "direction": "de-en", "source": source, "chosen": chosen, "rejected": rejected}


def read(tmp_path: Path, rows: list[dict[str, Any]], prompter: Prompter, limits: PairLimits = WIDE) -> PreferencePairs:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_pairs(path, prompter, limits)


def sizes(prompter: Prompter, row: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens of the prompt with BOS, and of each answer with EOS."""
    chosen, rejected = prompter.examples([(row["direction"], row["source"], row[side]) for side in ("chosen", "rejected")])
    return chosen.prompt, len(chosen.ids) - chosen.prompt, len(rejected.ids) - rejected.prompt


@pytest.mark.parametrize("form", ["alma", "x_alma"])
def test_a_pair_is_one_prompt_and_two_ended_answers(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, form: str) -> None:
    """B52, B57: the prompt's ids are those decoding starts from, with one BOS; each answer ends with EOS."""
    prompter = Prompter(tokenizer, form, LANGUAGES)
    (pair,) = read(tmp_path, [triple()], prompter).kept
    assert pair.prompt.tolist() == prompter.prompts([("de-en", "Der Zug.")])[0]
    for ids, text in ((pair.chosen, "The train."), (pair.rejected, "A car.")):
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == prompter.answer(text)
    everything = [*pair.prompt.tolist(), *pair.chosen.tolist(), *pair.rejected.tolist()]
    assert everything.count(tokenizer.bos_token_id) == 1
    assert everything.count(tokenizer.eos_token_id) == 2


def test_an_answer_that_spells_a_special_token_gets_no_second_one(
    tmp_path: Path, prompter: Prompter, tokenizer: PreTrainedTokenizerBase
) -> None:
    (pair,) = read(tmp_path, [triple(chosen="The train.</s>", rejected="<s> A car.")], prompter).kept
    assert pair.chosen.tolist().count(tokenizer.eos_token_id) == 1
    assert tokenizer.bos_token_id not in pair.rejected


@pytest.mark.parametrize("side", ["source", "chosen", "rejected"])
@pytest.mark.parametrize("empty", ["", "  \n\t "])
def test_an_empty_side_drops_the_pair(tmp_path: Path, prompter: Prompter, side: str, empty: str) -> None:
    """B51."""
    found = read(tmp_path, [triple() | {side: empty}, triple()], prompter)
    assert found.counts() == {"pairs": 1, "dropped": {"empty": 1}, "joined_lines": 0, "merged": 0}


def test_a_side_of_which_the_tokenizer_leaves_nothing_counts_as_empty(prompter: Prompter) -> None:
    """B51: such a side would be EOS alone, and the model would be taught to answer nothing."""
    whole, nothing = Example([0, 5, 6, 1], prompt=2, merged=False), Example([0, 5, 1], prompt=2, merged=False)
    assert pairs_module.reason_to_drop(whole, nothing, WIDE) == pairs_module.reason_to_drop(nothing, whole, WIDE) == "empty"
    assert pairs_module.reason_to_drop(whole, whole, WIDE) == ""


@pytest.mark.parametrize("long_side", ["chosen", "rejected"])
def test_an_answer_too_long_on_either_side_drops_the_whole_pair(tmp_path: Path, prompter: Prompter, long_side: str) -> None:
    """B51, B56: both sides by the same rule, at the exact limit, and nothing is cut."""
    row = triple() | {long_side: "The train arrives at 7 o'clock."}
    prompt, chosen, rejected = sizes(prompter, row)
    fits = PairLimits(prompt=prompt, length=prompt + max(chosen, rejected))
    kept = read(tmp_path, [row], prompter, fits).kept[0]
    assert (len(kept.prompt), len(kept.chosen), len(kept.rejected)) == (prompt, chosen, rejected)
    found = read(tmp_path, [row, triple()], prompter, PairLimits(prompt=prompt, length=fits.length - 1))
    assert found.counts()["dropped"] == {"answer_too_long": 1}
    assert len(found.kept) == 1


def test_a_prompt_too_long_drops_the_pair(tmp_path: Path, prompter: Prompter) -> None:
    """B51: the limit really acts; a prompt truncated before it is measured would always fit."""
    long = triple(source="Der Zug kommt um 7 Uhr an, der Zug kommt um 8 Uhr an.")
    limit = PairLimits(prompt=sizes(prompter, long)[0] - 1, length=512)
    found = read(tmp_path, [long, triple()], prompter, limit)
    assert found.counts()["dropped"] == {"prompt_too_long": 1}
    assert tuple(map(len, found.kept[0][:3])) == sizes(prompter, triple())


def test_identical_answers_are_no_preference(tmp_path: Path, prompter: Prompter) -> None:
    found = read(tmp_path, [triple(rejected=" The train.\n"), triple()], prompter)
    assert found.counts()["dropped"] == {"identical": 1}


def test_line_breaks_become_spaces_and_are_counted(tmp_path: Path, prompter: Prompter) -> None:
    """B45: a break would end the prompt's line."""
    found = read(tmp_path, [triple(source="Der\nZug."), triple()], prompter)
    assert found.joined_lines == 1
    assert found.kept[0].prompt.tolist() == prompter.prompts([("de-en", "Der Zug.")])[0]


def test_order_is_kept_across_blocks_of_rows(
    tmp_path: Path, prompter: Prompter, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs_module, "BATCH", 2)
    found = read(tmp_path, [triple(chosen=f"The train {i}.") for i in range(5)], prompter)
    assert [tokenizer.decode(pair.chosen[:-1]) for pair in found.kept] == [f"The train {i}." for i in range(5)]


def test_a_file_without_a_usable_pair_is_an_error(tmp_path: Path, prompter: Prompter) -> None:
    message = r"none of 2 preference pairs is usable \(dropped: {'answer_too_long': 2}\).*raise max_prompt=256 and max_length=2"
    with pytest.raises(UserError, match=message):
        read(tmp_path, [triple(), triple()], prompter, PairLimits(prompt=256, length=2))
    with pytest.raises(UserError, match="none of 0 preference pairs is usable"):
        read(tmp_path, [], prompter)


def test_a_line_that_is_no_triple_is_an_error(tmp_path: Path, prompter: Prompter) -> None:
    row = triple()
    row["reject"] = row.pop("rejected")
    with pytest.raises(
        UserError, match=r"train.jsonl:2: no rejected; expected a preference triple with direction, source, chosen, rejected"
    ):
        read(tmp_path, [triple(), row], prompter)


def test_a_direction_outside_the_languages_is_an_error(tmp_path: Path, prompter: Prompter) -> None:
    with pytest.raises(UserError, match=r"train.jsonl:1: direction fr-en has fr, .*\(en, de\)"):
        read(tmp_path, [triple() | {"direction": "fr-en"}], prompter)


def test_two_prompts_in_one_pair_are_refused(prompter: Prompter) -> None:
    """B52."""
    first, second = prompter.examples([("de-en", "Der Zug.", "The train."), ("de-en", "Der Hut.", "The train.")])
    with pytest.raises(AssertionError, match="same prompt ids"):
        make_pair(first, second, prompter)


def test_a_second_bos_is_refused(prompter: Prompter) -> None:
    """B57."""
    (good,) = prompter.examples([("de-en", "Der Zug.", "The train.")])
    double = Example([prompter.bos, *good.ids], good.prompt + 1, merged=False)
    with pytest.raises(AssertionError, match="one BOS"):
        make_pair(double, double, prompter)
