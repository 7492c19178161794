"""The `preferences` stage on a tiny random model."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.scoring.metrics import sentence_chrf
from alma_pipeline.schema import Source
from helpers.stub_vllm import asked, stub_vllm
from helpers.tiny_checkpoint import LANGUAGES, files, make_checkpoint, make_corpus, make_job, pairs, read
from stages.preferences.run import run

SETTINGS: dict[str, Any] = {
    "pairs": Source(reader="candidates"),
    "sources": 5,
    "held_out": 2,
    "candidates": 3,
    "max_new_tokens": 6,
    "seed": 1,
}
DIRECTIONS = ("en-de", "de-en")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    """Three held-out German sources also stand in the training part."""
    train = [row for direction in (*DIRECTIONS, "en-zh") for row in pairs(direction, range(1, 4))]
    dev = [row for direction in (*DIRECTIONS, "en-zh") for row in pairs(direction, range(4, 6))]
    shared = [row for row in train if row["direction"] == "de-en"][:3]
    corpus = make_corpus(tmp_path_factory.mktemp("corpus") / "pairs", train=train, dev=[*shared, *dev])
    return {"init": make_checkpoint(tmp_path_factory.mktemp("base")), "corpus": corpus}


class Made:
    """A preference data set that was built."""

    def __init__(self, work: Path, inputs: dict[str, Input], **settings: Any) -> None:
        languages = {code: LANGUAGES[code] for code in ("en", "de")}
        job = make_job(work, "preferences", inputs, **({"languages": languages} | SETTINGS | settings))
        self.result, self.files = run(job), files(job.out)
        self.rows = {split: read(job.out / f"{split}.jsonl") for split in ("train", "dev")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Input]) -> Made:
    return Made(tmp_path_factory.mktemp("made") / "work", inputs)


def test_leaves_triples_of_every_direction_between_its_languages(made: Made) -> None:
    assert made.files == {"train.jsonl", "dev.jsonl"}
    found = {split: Counter(row["direction"] for row in rows) for split, rows in made.rows.items()}
    assert found == {"train": {"en-de": 5, "de-en": 5}, "dev": {"en-de": 2, "de-en": 2}}
    fields = {"id", "source", "chosen", "rejected", "direction", "chosen_score", "rejected_score", "candidates"}
    assert all(set(row) == fields for rows in made.rows.values() for row in rows)


def test_vllm_samples_in_processes_that_get_the_devices(tmp_path: Path, inputs: dict[str, Input]) -> None:
    """A stand-in answers, on two devices, while this process takes none."""
    languages = {code: LANGUAGES[code] for code in ("en", "de")}
    job = make_job(tmp_path / "work", "preferences", inputs, **({"languages": languages, "engine": "vllm"} | SETTINGS))
    python = stub_vllm(tmp_path / "stub")
    two = dataclasses.replace(job.hardware, device="cuda", devices=2, launcher="torchrun", vllm_python=python)
    result = run(dataclasses.replace(job, hardware=two))
    rows = [row for split in ("train", "dev") for row in read(job.out / f"{split}.jsonl")]
    assert result["samples"] == 14 * 3 and "dtype:float32" in result["engine"]
    assert {len(row["candidates"]) for row in rows} == {4}
    assert {each["device"] for each in asked(tmp_path / "stub")} == {"0", "1"}


def test_no_source_is_both_trained_on_and_held_out(made: Made) -> None:
    assert not {row["source"] for row in made.rows["train"]} & {row["source"] for row in made.rows["dev"]}


def test_a_held_out_source_that_training_took_is_dropped_and_counted(tmp_path: Path, inputs: dict[str, Input]) -> None:
    """All 12 training sources of a direction are taken, so the three that dev shares with them are too."""
    made = Made(tmp_path / "work", inputs, sources=100, held_out=100)
    assert made.result["counts"]["directions"]["de-en"]["dropped"]["source_in_training"] == 3
    assert "source_in_training" not in made.result["counts"]["directions"]["en-de"]["dropped"]
    assert len({row["source"] for row in made.rows["dev"] if row["direction"] == "de-en"}) <= 8


def test_the_reference_is_chosen_against_the_worst_sample(made: Made) -> None:
    for row in made.rows["train"] + made.rows["dev"]:
        origins = [candidate["origin"] for candidate in row["candidates"]]
        assert origins == ["sample"] * 3 + ["reference"]
        reference = row["candidates"][-1]["text"]
        assert row["chosen"] == reference and row["chosen_score"] == 100
        assert row["rejected_score"] == min(candidate["score"] for candidate in row["candidates"])
        assert row["rejected_score"] == sentence_chrf(row["rejected"], reference) <= 95


def test_the_counts_account_for_every_source(made: Made) -> None:
    counts = made.result["counts"]
    assert (counts["train_examples"], counts["dev_examples"]) == (10, 4)
    assert counts["chosen_is_reference"] == 14
    assert made.result["sentences"] == 14 and made.result["samples"] == 42 and made.result["seconds"] > 0
    for direction in DIRECTIONS:
        part = counts["directions"][direction]
        assert (part["train"], part["dev"], part["chosen_is_reference"]) == (5, 2, 7)
    lost = [dropped for part in counts["directions"].values() for dropped in part["dropped"].items()]
    assert sum(count for _, count in lost) == sum(counts["dropped"].values())


def test_the_seed_decides_everything(tmp_path: Path, inputs: dict[str, Input], made: Made) -> None:
    again = Made(tmp_path / "again", inputs, decode_tokens=200)
    assert again.rows == made.rows and again.result["counts"] == made.result["counts"]
    other = Made(tmp_path / "other", inputs, seed=2)
    assert [row["source"] for row in other.rows["train"]] != [row["source"] for row in made.rows["train"]]


def test_progress_is_logged(tmp_path: Path, inputs: dict[str, Input]) -> None:
    Made(tmp_path / "work", inputs, sources=1, held_out=1)
    last = read(tmp_path / "work" / "metrics.jsonl")[-1]
    assert (last["step"], last["total"]) == (4, 4)


def test_a_margin_that_leaves_nothing_is_the_user_s_mistake(tmp_path: Path, inputs: dict[str, Input]) -> None:
    with pytest.raises(UserError, match=r"no preference pair is left for train: 10 sources .*small_margin.*min_margin"):
        Made(tmp_path / "work", inputs, min_margin=101.0)


def test_released_pairs_that_cannot_be_had_are_named(
    tmp_path: Path, inputs: dict[str, Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = Source(reader="hub", repo="someone/pairs")
    with pytest.raises(UserError, match=r"cannot read the data set someone/pairs, split train.*data\.root=FOLDER"):
        Made(tmp_path / "work", inputs, pairs=source)


def test_a_corpus_without_the_node_s_languages_is_the_user_s_mistake(tmp_path: Path, inputs: dict[str, Input]) -> None:
    only = {"zh": LANGUAGES["zh"], "de": LANGUAGES["de"]}
    with pytest.raises(UserError, match="no sentence pair in a direction between zh, de"):
        Made(tmp_path / "work", inputs, languages=only)


def test_the_dev_score_is_the_mean_over_the_samples_of_held_out_sources(made: Made) -> None:
    scores = [item["score"] for row in made.rows["dev"] for item in row["candidates"] if item["origin"] == "sample"]
    assert len(scores) == 12, "every held-out source made a pair"
    assert made.result["dev_score"] == pytest.approx(sum(scores) / 12)
    assert "rounds" not in made.result


@pytest.mark.parametrize(("change", "stopped"), [(-1.0, False), (0.0, False), (0.5, True)])
def test_a_later_round_says_whether_the_dev_score_fell(
    tmp_path: Path, inputs: dict[str, Input], made: Made, change: float, stopped: bool
) -> None:
    earlier = made.result["dev_score"] + change
    before = Input("e" * 64, "preferences", "nowhere", {"dev_score": earlier})
    found = Made(tmp_path / "work", inputs | {"before": before}).result
    assert found["rounds"] == {"before": earlier, "now": made.result["dev_score"], "stopped": stopped}


def test_a_round_before_without_a_dev_score_cannot_be_compared(tmp_path: Path, inputs: dict[str, Input]) -> None:
    before = Input("e" * 64, "preferences", "nowhere", {"counts": {}})
    with pytest.raises(UserError, match="no dev score to compare with; rebuild them with --force"):
        Made(tmp_path / "work", inputs | {"before": before})
