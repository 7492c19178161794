"""The `preferences` stage with two scorers and two sources of candidates, a checkpoint and files of another system."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.decoding import decode
from alma_pipeline.schema import Source
from alma_pipeline.store.identity import key_settings
from helpers.comet import hardware, neural
from helpers.tiny_checkpoint import LANGUAGES, make_checkpoint, make_corpus, make_job, pairs, read
from stages.preferences.config import Config
from stages.preferences.run import run

TRAIN = [row for direction in ("en-de", "de-en") for row in pairs(direction, range(1, 3))]
DEV = [row for direction in ("en-de", "de-en") for row in pairs(direction, range(4, 6))]
SETTINGS: dict[str, Any] = {
    "pairs": Source(reader="candidates"),
    "languages": {code: LANGUAGES[code] for code in ("en", "de")},
    "sources": 6,
    "held_out": 3,
    "candidates": 2,
    "max_new_tokens": 5,
    "min_margin": 0.01,
    "seed": 1,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus") / "pairs", train=TRAIN, dev=DEV)
    return {"init": make_checkpoint(tmp_path_factory.mktemp("init")), "corpus": corpus}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What gpt4 made of German, two versions of each but for one sentence; into German it was not asked."""
    path = tmp_path_factory.mktemp("gpt4") / "gpt4.de-en.jsonl"
    rows = [{"source": row["source"], "hypothesis": f"{row['target']}{end}"} for row in TRAIN + DEV for end in ("!", "?")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if not row["source"].startswith("1. Mai")), encoding="utf-8")
    return {"a digest": path}


def prepared(work: Path, inputs: dict[str, Input], given: dict[str, Path], python: str | None = None, **changes: Any) -> Job:
    source = Source(reader="files", files={"de-en.jsonl": "a digest"})
    job = make_job(work, "preferences", inputs, **(SETTINGS | {"system_outputs": {"gpt4": source}} | changes))
    places = {digest: str(path) for digest, path in given.items()}
    return Job(job.name, job.key, job.work, job.config, hardware(python), job.inputs, places)


@pytest.fixture(scope="module")
def scorers(comet_models: Path) -> dict[str, Any]:
    named = {"quality": neural(comet_models, "referenceless", precision="fp32")}
    return {"score_by": ["chrf", "quality"], "scorers": named}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Input], given: dict[str, Path], scorers: dict[str, Any]
) -> tuple[Job, dict[str, Any]]:
    job = prepared(tmp_path_factory.mktemp("made") / "store" / "work" / "job", inputs, given, **scorers)
    return job, run(job)


def written(job: Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(job.out.iterdir())}


def test_given_outputs_are_candidates_with_an_origin_and_scores(made: tuple[Job, dict[str, Any]]) -> None:
    job, _ = made
    rows = read(job.out / "train.jsonl") + read(job.out / "dev.jsonl")
    for row in rows:
        origins = Counter(candidate["origin"] for candidate in row["candidates"])
        asked = row["direction"] == "de-en" and not row["source"].startswith("1. Mai")
        assert origins == Counter({"sample": 2, "reference": 1} | ({"gpt4": 2} if asked else {}))
        assert all(set(candidate["scores"]) == {"chrf", "quality"} for candidate in row["candidates"])
        texts = [candidate["text"] for candidate in row["candidates"]]
        assert not asked or texts[2:4] == [f"{texts[4]}!", f"{texts[4]}?"]


def test_the_counts_add_up(made: tuple[Job, dict[str, Any]]) -> None:
    job, result = made
    counts, told = result["counts"], result["system_outputs"]["gpt4"]
    written_rows = read(job.out / "train.jsonl") + read(job.out / "dev.jsonl")
    left = read(job.out / "dropped.jsonl") if counts["dropped"] else []
    assert Counter(row["dropped"] for row in left) == counts["dropped"] and all(row["candidates"] for row in left)
    assert result["sentences"] == 18 and result["samples"] == 36
    assert told["outputs"] == 2 * (18 - told["sentences_without"]) and 9 <= told["sentences_without"] <= 10
    assert len(written_rows) == counts["train_examples"] + counts["dev_examples"] == 18 - sum(counts["dropped"].values())
    for each in ("chosen_from", "rejected_from"):
        assert sum(counts[each].values()) == len(written_rows) and set(counts[each]) <= {"sample", "gpt4", "reference"}
    assert sum(part["train"] + part["dev"] for part in counts["directions"].values()) == len(written_rows)


def test_it_repeats_bit_for_bit_and_goes_on_so_after_it_was_killed(
    tmp_path: Path,
    inputs: dict[str, Input],
    given: dict[str, Path],
    scorers: dict[str, Any],
    made: tuple[Job, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a store of its own, so that no score comes from a cache; ended between sampling and scoring."""
    job = prepared(tmp_path / "store" / "work" / "job", inputs, given, str(tmp_path / "nowhere"), **scorers)
    with pytest.raises(UserError, match="was expected at"):
        run(job)
    monkeypatch.setattr(decode, "sample", None)  # nothing is sampled again
    job = Job(job.name, job.key, job.work, job.config, hardware(), job.inputs, job.files)
    result = run(job)
    assert written(job) == written(made[0])
    assert {**result, "seconds": 0} == {**made[1], "seconds": 0}


def test_files_that_hold_none_of_the_sources_are_named_before_anything_is_sampled(
    tmp_path: Path, inputs: dict[str, Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "sample", None)
    (tmp_path / "other.jsonl").write_text('{"source": "of another set", "hypothesis": "x"}\n')
    with pytest.raises(UserError, match=r"outputs\.gpt4: its files contain none of the 18 selected sources"):
        run(prepared(tmp_path / "work", inputs, {"a digest": tmp_path / "other.jsonl"}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"outputs": {"sample": "x"}}, "'sample' cannot name a system"),
        ({"outputs": {"second": "x"}, "inputs": {"also_second": "base"}}, "'second' cannot name a system"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], named: str) -> None:
    assert any(named in text for text in Config(**changes).conflicts())


def test_given_outputs_are_in_the_key_where_there_are_some() -> None:
    assert not {"outputs", "system_outputs"} & set(key_settings(Config()))
    assert "system_outputs" in key_settings(Config(system_outputs={"gpt4": Source(reader="files", files={"all.jsonl": "1"})}))
