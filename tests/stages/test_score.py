"""The `score` stage on hypotheses written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.scoring import metrics
from alma_pipeline.ml.scoring.comet import CometSegment
from alma_pipeline.ml.scoring.metrics import ScorableTranslation
from alma_pipeline.schema import Language
from helpers.comet import hardware, neural, scored
from helpers.tiny_checkpoint import LANGUAGES, files, make_job, read, write
from stages.score.config import Config
from stages.score.run import run

ROWS = [
    ("en-de", "the cat sleeps here", "die Katze schläft hier", "die Katze schläft dort"),
    ("de-en", "der Hund bellt laut", "the dog barks loudly", "the dog barks\nloudly"),
    ("en-zh", "tomorrow morning", "明天早上去北京", "明天下午去北京"),
    ("en-de", "June 5", "5. Juni", "June 5"),
    ("en-zh", "today", "今天", ""),
]


def hypotheses(folder: Path, rows: list[tuple[str, str, str, str]]) -> Input:
    folder.mkdir()
    names = ("direction", "source", "reference", "hypothesis")
    write(folder / "hypotheses.jsonl", [{"id": str(i), **dict(zip(names, row, strict=True))} for i, row in enumerate(rows)])
    return Input("h" * 64, "translate", str(folder), {})


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    job = make_job(tmp_path / "work", "score", {"hypotheses": hypotheses(tmp_path / "in", ROWS)})
    made = run(job)
    assert files(job.out) == {"scores.json", "segments.jsonl"}
    assert json.loads((job.out / "scores.json").read_text(encoding="utf-8")) == made
    return made


def test_every_direction_is_scored_with_its_language_s_tokenizer(result: dict[str, Any]) -> None:
    """B49."""
    assert list(result["directions"]) == ["en-de", "de-en", "en-zh"]
    for direction, tokenizer in (("en-de", "13a"), ("de-en", "13a"), ("en-zh", "zh")):
        rows = [ScorableTranslation(*row) for row in ROWS if row[0] == direction]
        assert result["directions"][direction] == metrics.score(rows, tokenizer, ["chrf++", "bleu", "ter"]).plain()
        assert f"tok:{tokenizer}|" in result["signatures"]["bleu"][direction]
    guards = {"exact", "empty", "copy", "repetition", "truncated", "off_target", "length_ratio", "sentences"}
    assert set(result["directions"]["en-de"]) == set(result["signatures"]) | guards
    assert set(result["signatures"]) == {"chrf++", "bleu", "ter"} and result["lower_is_better"] == ["ter"]
    assert all("nw:2" in signature for signature in result["signatures"]["chrf++"].values())


def test_segments_stand_in_the_order_of_the_hypotheses(tmp_path: Path, result: dict[str, Any]) -> None:
    """B45: and each on a line of its own, with what is wrong with it."""
    found = read(tmp_path / "work" / "out" / "segments.jsonl")
    assert [(row["id"], row["direction"], row["source"]) for row in found] == [(str(i), *row[:2]) for i, row in enumerate(ROWS)]
    assert found[1]["hypothesis"] == "the dog barks loudly" and found[1]["scores"] == {"chrf++": 100.0, "ter": 0.0}
    assert [row["flags"]["copy"] for row in found] == [False, False, False, True, False]
    assert [row["flags"]["empty"] for row in found] == [False, False, False, False, True]
    assert all(row["flags"]["truncated"] is None for row in found), "outputs of another system say nothing of it"


def test_hypotheses_that_were_cut_off_are_counted(tmp_path: Path) -> None:
    made = hypotheses(tmp_path / "in", ROWS)
    rows = read(Path(made.path) / "hypotheses.jsonl")
    write(Path(made.path) / "hypotheses.jsonl", [row | {"truncated": row["id"] == "0"} for row in rows])
    result = run(make_job(tmp_path / "work", "score", {"hypotheses": made}))
    assert [result["directions"][direction]["truncated"] for direction in ("en-de", "de-en")] == [50, 0]


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        (["chrf++", "blue"], "no metric 'blue'; did you mean 'bleu'"),
        (["bleu"], "lacks chrf"),
        (["chrf++", "chrf++"], "contains a name twice"),
    ],
)
def test_metrics_that_make_no_table_are_refused(metrics: list[str], named: str) -> None:
    assert any(named in text for text in Config(metrics=metrics).conflicts())


def test_copies_empties_and_line_breaks_are_reported(result: dict[str, Any]) -> None:
    """B45, B46."""
    assert result["directions"]["en-de"]["copy"] == 50 and result["directions"]["en-zh"]["empty"] == 50
    assert result["newlines"] == 1 and result["directions"]["de-en"]["exact"] == 100
    assert result["languages"]["en-zh"] == {"zh": 1, "?": 1} and result["directions"]["en-zh"]["off_target"] == 0


def test_averages_mix_no_tokenizers(result: dict[str, Any]) -> None:
    """B49."""
    averages = result["averages"]
    assert set(averages) == {"en-xx", "xx-en", "all"}
    assert averages["en-xx"]["bleu"] is None and averages["all"]["bleu"] is None
    assert averages["xx-en"] == result["directions"]["de-en"]
    chrf = [result["directions"][direction]["chrf++"] for direction in ("en-de", "en-zh")]
    assert averages["en-xx"]["chrf++"] == pytest.approx(sum(chrf) / 2) and averages["all"]["sentences"] == 5


UNSPACED = {
    "th": Language(name="Thai", locale="th", nllb="tha_Thai"),
    "km": Language(name="Khmer", locale="km", nllb="khm_Khmr"),
}
THAI = ("คณะกรรมการจะประชุมอีกครั้งในวันอังคารหน้า", "คณะกรรมการจะประชุมกันอีกในวันอังคารหน้า")
KHMER = ("គណៈកម្មាធិការនឹងជួបគ្នាម្តងទៀត", "គណៈកម្មាធិការនឹងជួបប្រជុំម្តងទៀត")


def test_scripts_without_spaces_get_no_score_that_means_nothing(tmp_path: Path) -> None:
    """By 13a such a sentence is one word, and BLEU 0 though most of it is right; TER counts that one word as wrong."""
    rows = [("en-th", "The committee will meet again next Tuesday.", *THAI), ("en-km", "The committee will meet again.", *KHMER)]
    made = hypotheses(tmp_path / "in", [*rows, ROWS[0]])
    result = run(make_job(tmp_path / "work", "score", {"hypotheses": made}, languages=LANGUAGES | UNSPACED))
    for direction, (reference, hypothesis) in (("en-th", THAI), ("en-km", KHMER)):
        by_characters = BLEU(tokenize="char").corpus_score([hypothesis], [[reference]]).score
        assert result["directions"][direction]["bleu"] == by_characters > 60
        assert BLEU(tokenize="13a").corpus_score([hypothesis], [[reference]]).score == 0
        assert "tok:char" in result["signatures"]["bleu"][direction] and "ter" not in result["directions"][direction]
    # The empty cells have a reason, and a mean that would leave them out is empty too.
    assert set(result["signatures"]["ter"]) == {"en-de"} and set(result["unscored"]) == {"ter"}
    assert result["unscored"]["ter"]["en-th"] == "Thai is written without spaces, and TER has no words to count there"
    assert result["averages"]["en-xx"]["ter"] is None and result["averages"]["en-xx"]["bleu"] is None
    assert result["averages"]["en-xx"]["chrf++"] is not None


def test_only_runs_with_such_scripts_get_another_key() -> None:
    assert Config(languages=LANGUAGES).rules() == {}
    assert Config(languages=LANGUAGES | UNSPACED).rules() == {"unspaced_scripts": 2}
    assert Config(languages=LANGUAGES | UNSPACED, metrics=["chrf++", "spbleu"]).rules() == {}
    assert Config(languages=LANGUAGES | {"jv": Language(name="Javanese", locale="jv", nllb="jav_Latn")}).rules() == {}


def test_hypotheses_that_cannot_be_scored_are_the_user_s_mistake(tmp_path: Path) -> None:
    german = {code: LANGUAGES[code] for code in ("en", "de")}
    job = make_job(tmp_path / "work", "score", {"hypotheses": hypotheses(tmp_path / "in", ROWS)}, languages=german)
    with pytest.raises(UserError, match="the hypotheses contain en-zh, but this node's languages are en, de"):
        run(job)
    empty = make_job(tmp_path / "empty", "score", {"hypotheses": hypotheses(tmp_path / "none", [])})
    with pytest.raises(UserError, match="has no hypotheses"):
        run(empty)


def test_a_neural_metric_scores_all_directions_and_stands_beside_the_others(tmp_path: Path, comet_models: Path) -> None:
    """B45, B48: on a tiny real COMET checkpoint that reads 64 pieces."""
    rows = [*ROWS, ("en-zh", "x" * 80, "今天", "今天")]
    made = hypotheses(tmp_path / "in", rows)
    scorers = {"mine": neural(comet_models, "regression")}
    job = make_job(tmp_path / "store" / "work" / "job", "score", {"hypotheses": made}, comet=["mine"], scorers=scorers)
    result = run(Job(job.name, job.key, job.work, job.config, hardware(), job.inputs))
    segments = read(job.out / "segments.jsonl")
    for direction in ("en-de", "de-en", "en-zh"):
        own = [row["scores"]["mine"] for row in segments if row["direction"] == direction]
        assert result["directions"][direction]["mine"] == pytest.approx(sum(own) / len(own))
        assert "reference:yes|precision:fp16|comet:" in result["signatures"]["mine"][direction]
    assert result["cut"] == {"mine": {"en-de": 0, "de-en": 0, "en-zh": 1}}
    means = [result["directions"][direction]["mine"] for direction in ("en-de", "en-zh")]
    assert result["averages"]["en-xx"]["mine"] == pytest.approx(sum(means) / 2)
    found = [CometSegment(source, hypothesis.replace("\n", " "), reference) for _, source, reference, hypothesis in rows]
    assert [row["scores"]["mine"] for row in segments] == scored(scorers["mine"], found, job.cache / "segment_scores.db").scores
