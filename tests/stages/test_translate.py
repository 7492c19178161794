"""The `translate` stage on a tiny random model."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.reranking import chrf, minimum_bayes_risk
from alma_pipeline.ml.decoding.search import Sampling
from alma_pipeline.store.identity import key_settings
from helpers.processes import lives, wait_for
from helpers.stub_vllm import asked, stub_vllm
from helpers.tiny_checkpoint import LANGUAGES, files, make_checkpoint, make_corpus, make_job, pairs, read
from stages.translate.config import Config
from stages.translate.run import run

SETTINGS: dict[str, Any] = {"prompt": "alma", "num_beams": 3, "max_source": 200, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Input:
    rows = [pairs(direction, range(1, 3)) for direction in ("en-de", "de-en", "en-zh")]
    mixed = [row for turn in zip(*rows, strict=True) for row in turn]
    return make_corpus(tmp_path_factory.mktemp("corpus") / "test", test=mixed)


def translate(work: Path, inputs: dict[str, Input], **settings: Any) -> tuple[dict[str, Any], list[dict[str, str]], Path]:
    job = make_job(work, "translate", inputs, **(SETTINGS | settings))
    return run(job), read(job.out / "hypotheses.jsonl"), job.out


def test_leaves_a_hypothesis_for_every_sentence_in_order(tmp_path: Path, checkpoint: Input, corpus: Input) -> None:
    """The hypotheses are those of `generate`, although the checkpoint's own generation config samples."""
    result, found, out = translate(tmp_path / "work", {"checkpoint": checkpoint, "test": corpus})
    rows = read(Path(corpus.path) / "test.jsonl")
    assert files(out) == {"hypotheses.jsonl"}
    kept = [{**row, "reference": row["target"]} for row in rows]
    same = ("id", "direction", "source", "reference")
    assert [set(row) for row in found] == [{*same, "hypothesis", "truncated"}] * 24
    assert [{name: row[name] for name in same} for row in found] == [{name: row[name] for name in same} for row in kept]
    assert sum(row["truncated"] for row in found) == result["outputs_at_limit"]  # type: ignore[misc]
    assert found[5]["hypothesis"] == expected(checkpoint, rows[5])
    assert result["sentences"] == 24 and result["sources_cut"] == 0 and result["seconds"] > 0
    assert 0 < result["output_tokens"] <= 24 * 6 and 0 <= result["outputs_at_limit"] <= 24


def expected(checkpoint: Input, row: dict[str, str]) -> str:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    ids = torch.tensor(Prompter(tokenizer, "alma", LANGUAGES).prompts([(row["direction"], row["source"])]))
    output = model.generate(ids, num_beams=3, do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
    return str(tokenizer.decode(output, skip_special_tokens=True)).strip()


def test_translates_only_directions_between_its_languages(tmp_path: Path, checkpoint: Input, corpus: Input) -> None:
    languages = {code: LANGUAGES[code] for code in ("en", "zh")}
    _, found, _ = translate(tmp_path / "work", {"checkpoint": checkpoint, "test": corpus}, languages=languages)
    assert {row["direction"] for row in found} == {"en-zh"} and len(found) == 8


def test_no_direction_between_its_languages_is_the_user_s_mistake(tmp_path: Path, checkpoint: Input, corpus: Input) -> None:
    languages = {code: LANGUAGES[code] for code in ("de", "zh")}
    with pytest.raises(UserError, match="no direction between de, zh; it has de-en, en-de, en-zh"):
        translate(tmp_path / "work", {"checkpoint": checkpoint, "test": corpus}, languages=languages)


def test_progress_is_logged_and_the_hypotheses_do_not_depend_on_the_budget(
    tmp_path: Path, checkpoint: Input, corpus: Input
) -> None:
    inputs = {"checkpoint": checkpoint, "test": corpus}
    _, wide, _ = translate(tmp_path / "wide", inputs, max_new_tokens=3)
    _, narrow, _ = translate(tmp_path / "narrow", inputs, max_new_tokens=3, decode_tokens=1)
    assert wide == narrow
    last = read(tmp_path / "narrow" / "metrics.jsonl")[-1]
    assert (last["step"], last["total"]) == (24, 24) and last["metrics"]["decode/sentences_per_second"] > 0


def test_a_source_too_long_is_cut_and_the_prompt_keeps_its_end(tmp_path: Path, checkpoint: Input) -> None:
    """The released code cuts the prompt instead, which loses the words that ask for the translation."""
    long = {"id": "1", "direction": "de-en", "source": "Ende " * 60, "target": "end"}
    corpus = make_corpus(tmp_path / "corpus", test=[long, {**long, "id": "2", "source": "Ende\nEnde"}])
    inputs = {"checkpoint": checkpoint, "test": corpus}
    result, found, _ = translate(tmp_path / "work", inputs, max_source=100)
    assert result["sources_cut"] == 1 and [row["id"] for row in found] == ["1", "2"]
    with pytest.raises(UserError, match="max_source=5 tokens, but the prompt alone has"):
        translate(tmp_path / "short", inputs, max_source=5)


def test_minimum_bayes_risk_takes_the_sample_that_is_most_like_the_others(
    tmp_path: Path, checkpoint: Input, corpus: Input
) -> None:
    """The hypotheses are samples of the seed, chosen by chrF against each other and not by the reference."""
    how = {"decoding": "mbr", "candidates": 4, "temperature": 1.5, "top_p": 0.95, "seed": 3, "max_new_tokens": 5}
    inputs = {"checkpoint": checkpoint, "test": corpus}
    _, found, _ = translate(tmp_path / "work", inputs, **how)
    texts = samples(checkpoint, found, Sampling(width=4, temperature=1.5, top_p=0.95, seed=3), 5)
    chosen = minimum_bayes_risk(texts, chrf)
    assert [row["hypothesis"] for row in found] == [each[place] for each, place in zip(texts, chosen, strict=True)]
    assert set(chosen) > {0}, "the case must hold sentences whose first sample is not the best"
    _, other, _ = translate(tmp_path / "other", inputs, **(how | {"seed": 4}))
    assert other != found


def samples(checkpoint: Input, rows: list[dict[str, str]], sampling: Sampling, longest: int) -> list[list[str]]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    prompts = Prompter(tokenizer, "alma", LANGUAGES).prompts([(row["direction"], row["source"]) for row in rows])
    outputs = decode.sample(model, prompts, sampling, decode.limits(tokenizer, longest, 4000))
    return [[decode.text(tokenizer, ids) for ids in each] for each in outputs]


def test_how_candidates_are_sampled_is_in_the_key_only_where_they_are() -> None:
    """A beam search has the key it had before there were candidates."""
    before = {"prompt", "precision", "num_beams", "max_source", "max_new_tokens", "languages"}
    assert set(key_settings(Config())) == before
    assert key_settings(Config(decoding="mbr", seed=1)).items() >= {"decoding": "mbr", "seed": 1}.items()


def test_vllm_decodes_in_processes_of_its_own_and_its_versions_are_in_the_result(
    tmp_path: Path, checkpoint: Input, corpus: Input
) -> None:
    """A stand-in answers each prompt with its first nine tokens."""
    job = make_job(tmp_path / "work", "translate", {"checkpoint": checkpoint, "test": corpus}, **SETTINGS, engine="vllm")
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, num_beams=1))
    result = run(dataclasses.replace(job, hardware=dataclasses.replace(job.hardware, vllm_python=stub_vllm(tmp_path / "stub"))))
    assert (result["sentences"], result["output_tokens"]) == (24, 24 * 9)
    assert result["engine"].endswith("|dtype:float32") and f"torch:{torch.__version__}" in result["engine"]
    assert not (tmp_path / "work" / "vllm").exists()
    [model, *_] = asked(tmp_path / "stub")
    wait_for(lambda: not lives(model["child"]), 5)


def test_a_changed_rule_gives_vllm_s_outputs_a_new_key_and_no_others() -> None:
    assert Config().rules() == {} and Config(engine="vllm").rules() == {"vllm": 2}
