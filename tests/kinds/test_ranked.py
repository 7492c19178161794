"""The `translate` stage where neural scorers choose among samples, on a tiny random model and tiny real COMET checkpoints."""

from pathlib import Path
from typing import Any

import pytest
from comet_bed import hardware, neural, scored
from decoding_bed import kept_outputs, make_checkpoint, make_corpus, make_job, pairs, read

from alma_pipeline.errors import UserError
from alma_pipeline.identity import settings
from alma_pipeline.job import Input, Job
from alma_pipeline.ml import decoding
from alma_pipeline.ml.neural import Segment
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
    return [[decoding.text(tokenizer, ids) for ids in each] for each in kept_outputs(job)]


def test_quality_takes_the_sample_that_the_scorer_finds_best_and_goes_on_after_it_failed(
    tmp_path: Path, inputs: dict[str, Input], comet_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is nowhere in it: a model that could read one is asked to do without."""
    scorer = neural(comet_models, "unified", precision="fp32")
    how = {"decoding": "quality", "rank_by": ["mine"], "scorers": {"mine": scorer}}
    job = prepared(tmp_path / "store" / "work" / "job", inputs, str(tmp_path / "nowhere"), **how)
    with pytest.raises(UserError, match="whose Python was expected"):
        run(job)
    monkeypatch.setattr(decoding, "decoder", None)  # the samples are there
    job = Job(job.name, job.key, job.work, job.config, hardware(), job.inputs)
    result = run(job)
    assert "reference:no" in result["ranked_by"]["mine"]
    rows, texts = read(job.out / "hypotheses.jsonl"), kept(job, inputs)
    free = neural(comet_models, "unified", precision="fp32", reference=False)
    places = []
    for row, each in zip(rows, texts, strict=True):
        values = scored(free, [Segment(row["source"], " ".join(text.split()), None) for text in each], tmp_path / "c.db").scores
        places.append(values.index(max(values)))
        assert row["hypothesis"] == each[places[-1]]
    assert set(places) > {0}, "the case must hold sentences whose first sample is not the best"


def test_a_scorer_that_needs_a_reference_cannot_tell_quality(
    tmp_path: Path, inputs: dict[str, Input], comet_models: Path
) -> None:
    how = {"decoding": "quality", "rank_by": ["mine"], "scorers": {"mine": neural(comet_models, "regression")}}
    with pytest.raises(UserError, match="needs a reference, and there is none here"):
        run(prepared(tmp_path / "store" / "work" / "job", inputs, **how))


def test_risk_by_the_mean_of_chrf_and_a_neural_scorer(tmp_path: Path, inputs: dict[str, Input], comet_models: Path) -> None:
    how = {"decoding": "mbr", "rank_by": ["chrf", "mine"], "scorers": {"mine": neural(comet_models, "regression")}}
    job = prepared(tmp_path / "store" / "work" / "job", inputs, **how)
    result = run(job)
    assert set(result["ranked_by"]) == {"chrf", "mine"} and "reference:yes" in result["ranked_by"]["mine"]
    chosen = [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")]
    assert all(text in each for text, each in zip(chosen, kept(job, inputs), strict=True))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decoding": "quality"}, "rank_by=chrf, which compares with a reference"),
        ({"rank_by": ["kiwi-22"]}, "decoding=beam draws none"),
        ({"decoding": "mbr", "rank_by": []}, "expected one scorer"),
        ({"decoding": "mbr", "rank_by": ["chrf", "chrf"]}, "expected one scorer"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], named: str) -> None:
    assert any(named in text for text in Config(**changes).conflicts())


def test_who_ranks_is_in_the_key() -> None:
    assert "rank_by" not in settings(Config(decoding="mbr"))
    assert settings(Config(decoding="quality", rank_by=["kiwi-22"]))["rank_by"] == ["kiwi-22"]
