"""The `translate` stage where neural scorers choose among samples, on a tiny random model and tiny real COMET checkpoints."""

from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.scoring import comet as neural_scoring
from alma_pipeline.ml.scoring.comet import CometSegment
from alma_pipeline.store.identity import key_settings
from helpers.comet import hardware, neural, scored
from helpers.tiny_checkpoint import kept_outputs, make_checkpoint, make_corpus, make_job, pairs, read
from stages.translate.config import Config
from stages.translate.run import run

HOW: dict[str, Any] = {"candidates": 3, "temperature": 1.5, "top_p": 0.95, "seed": 3, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus") / "test", test=pairs("en-de", range(1, 3)))
    return {"checkpoint": make_checkpoint(tmp_path_factory.mktemp("base")), "test": corpus}


def prepared(work: Path, inputs: dict[str, Input], python: str | None = None, **changes: Any) -> Job:
    job = make_job(work, "translate", inputs, **(HOW | changes))
    return Job(job.name, job.key, job.work, job.config, hardware(python), job.inputs)


def kept(job: Job, inputs: dict[str, Input]) -> list[list[str]]:
    """The texts of the samples that a run left to go on from."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(inputs["checkpoint"].path)
    return [[decode.text(tokenizer, ids) for ids in each] for each in kept_outputs(job)]


def test_quality_takes_the_sample_that_the_scorer_finds_best_and_goes_on_after_it_failed(
    tmp_path: Path, inputs: dict[str, Input], comet_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is nowhere in it: a model that could read one is asked to do without."""
    scorer = neural(comet_models, "unified", precision="fp32")
    how: dict[str, Any] = {"decoding": "quality", "rank_by": ["mine"], "scorers": {"mine": scorer}}
    job = prepared(tmp_path / "store" / "work" / "job", inputs, **how)
    with monkeypatch.context() as broken, pytest.raises(PipelineError, match="the scorer crashed"):
        broken.setattr(neural_scoring, "score", _crash)
        run(job)
    monkeypatch.setattr(decode, "decoder", None)  # the samples are there
    result = run(job)
    assert "reference:no" in result["ranked_by"]["mine"]
    rows, texts = read(job.out / "hypotheses.jsonl"), kept(job, inputs)
    free = neural(comet_models, "unified", precision="fp32", reference=False)
    places = []
    for row, each in zip(rows, texts, strict=True):
        values = scored(
            free, [CometSegment(row["source"], " ".join(text.split()), None) for text in each], tmp_path / "c.db"
        ).scores
        places.append(values.index(max(values)))
        assert row["hypothesis"] == each[places[-1]]
    assert set(places) > {0}, "the case must hold sentences whose first sample is not the best"


def _crash(*arguments: object) -> None:
    raise PipelineError("the scorer crashed")


@pytest.mark.parametrize(
    ("decoding_by", "model", "said"),
    [
        ("quality", "regression", "decoding=quality with rank_by=mine: .* needs a reference, but there is none"),
        ("mbr", "referenceless", "decoding=mbr with rank_by=mine: .* reads no reference, but mbr compares"),
    ],
)
def test_a_scorer_that_cannot_do_it_is_refused_before_anything_is_decoded(
    tmp_path: Path, inputs: dict[str, Input], comet_models: Path, decoding_by: str, model: str, said: str
) -> None:
    how: dict[str, Any] = {"decoding": decoding_by, "rank_by": ["mine"], "scorers": {"mine": neural(comet_models, model)}}
    job = prepared(tmp_path / "store" / "work" / "job", inputs, **how)
    with pytest.raises(UserError, match=said):
        run(job)
    assert not list(job.resume.rglob("*"))


def test_so_is_one_whose_python_is_not_there(tmp_path: Path, inputs: dict[str, Input], comet_models: Path) -> None:
    how: dict[str, Any] = {"decoding": "quality", "rank_by": ["mine"], "scorers": {"mine": neural(comet_models, "unified")}}
    job = prepared(tmp_path / "store" / "work" / "job", inputs, str(tmp_path / "nowhere"), **how)
    with pytest.raises(UserError, match="its Python was expected"):
        run(job)
    assert not list(job.resume.rglob("*"))


def test_risk_by_the_mean_of_chrf_and_a_neural_scorer(tmp_path: Path, inputs: dict[str, Input], comet_models: Path) -> None:
    how: dict[str, Any] = {
        "decoding": "mbr",
        "rank_by": ["chrf", "mine"],
        "scorers": {"mine": neural(comet_models, "regression")},
    }
    job = prepared(tmp_path / "store" / "work" / "job", inputs, **how)
    result = run(job)
    assert set(result["ranked_by"]) == {"chrf", "mine"} and "reference:yes" in result["ranked_by"]["mine"]
    chosen = [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")]
    assert all(text in each for text, each in zip(chosen, kept(job, inputs), strict=True))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decoding": "quality"}, "decoding=quality cannot rank by chrf"),
        ({"rank_by": ["kiwi-22"]}, "has no effect with decoding=beam"),
        ({"decoding": "mbr", "rank_by": []}, "expected one scorer"),
        ({"decoding": "mbr", "rank_by": ["chrf", "chrf"]}, "expected one scorer"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], named: str) -> None:
    assert any(named in text for text in Config(**changes).conflicts())


def test_who_ranks_is_in_the_key() -> None:
    assert "rank_by" not in key_settings(Config(decoding="mbr"))
    assert key_settings(Config(decoding="quality", rank_by=["kiwi-22"]))["rank_by"] == ["kiwi-22"]
