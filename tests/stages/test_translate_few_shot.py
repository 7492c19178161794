"""Few-shot prompts: what they say, where the examples come from, and what of an answer counts."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.data.prompts import Prompter, alma_prompt
from alma_pipeline.ml.decoding import decode
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store
from helpers.tiny_checkpoint import LANGUAGES, make_checkpoint, make_corpus, make_job, pairs, read
from stages.translate.run import run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    test = make_corpus(tmp_path_factory.mktemp("corpus") / "test", test=pairs("en-de", range(8, 9)))
    train = [row for direction in ("de-en", "en-de") for row in pairs(direction, range(1, 2))]
    examples = make_corpus(tmp_path_factory.mktemp("corpus") / "pairs", train=train)
    return {"checkpoint": make_checkpoint(tmp_path_factory.mktemp("base")), "test": test, "examples": examples}


def translated(work: Path, inputs: dict[str, Input], **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    job = make_job(work, "translate", inputs, **({"num_beams": 1, "max_new_tokens": 5, "max_source": 400} | changes))
    return run(job), read(job.out / "hypotheses.jsonl")


def test_examples_stand_before_the_sentence_in_the_same_words() -> None:
    shots = [("May 1", "1. Mai"), ("June 1", "1. Juni")]
    assert alma_prompt(LANGUAGES, "en-de", "May 8", shots) == (
        "Translate this from English to German:\nEnglish: May 1\nGerman: 1. Mai\nEnglish: June 1\nGerman: 1. Juni\n"
        "English: May 8\nGerman:"
    )


def test_the_first_training_pairs_of_the_direction_are_shown_and_the_first_line_of_the_answer_counts(
    tmp_path: Path, inputs: dict[str, Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    tokenizer = AutoTokenizer.from_pretrained(inputs["checkpoint"].path)
    answer = tokenizer("8. Mai\nEnglish: more", add_special_tokens=False)["input_ids"]

    def search(model: Any, prompts: list[list[int]], *others: Any) -> list[list[int]]:
        asked.extend(prompts)
        return [answer for _ in prompts]

    monkeypatch.setattr(decode, "beam_search", search)
    result, found = translated(tmp_path / "work", inputs, num_shots=2, max_new_tokens=len(answer))
    shots = {"en-de": [("May 1", "1. Mai"), ("June 1", "1. Juni")]}
    rows = [(row["direction"], row["source"]) for row in found]
    assert asked == Prompter(tokenizer, "alma", LANGUAGES, shots).prompts(rows)
    assert {row["hypothesis"] for row in found} == {"8. Mai"} and result["outputs_at_limit"] == 0


def test_too_few_pairs_to_show_are_named(tmp_path: Path, inputs: dict[str, Input]) -> None:
    with pytest.raises(UserError, match=r"num_shots=9, but there are fewer training pairs to show: 4 in en-de"):
        translated(tmp_path / "work", inputs, num_shots=9)


def test_the_base_zero_and_few_shot_are_two_systems_of_one_test(tmp_path: Path) -> None:
    def planned(*words: str) -> dict[str, Any]:
        plan = make_plan(load.load(["data.languages=[de]", *words]), Store(tmp_path / "store"))
        return {step.node.name: step for step in plan.steps}

    zero, few = planned("stage=base"), planned("stage=base", "stages.translate.num_shots=5")
    assert "parallel_corpus" not in zero and few["base.translate"].node.inputs["examples"] == "parallel_corpus"
    assert zero["test_corpus"].key == few["test_corpus"].key and zero["base.translate"].key != few["base.translate"].key
    with pytest.raises(ConfigError, match=r"num_shots=5 shows pairs of parallel_corpus, which this stage lacks"):
        planned("stage=arpo", "stages.translate.num_shots=5")
