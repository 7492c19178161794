"""The `score` stage on hypotheses written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from decoding_bed import LANGUAGES, files, make_job, write

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml import metrics
from alma_pipeline.ml.metrics import Translation
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
    assert files(job.out) == {"scores.json"}
    assert json.loads((job.out / "scores.json").read_text(encoding="utf-8")) == made
    return made


def test_every_direction_is_scored_with_its_language_s_tokenizer(result: dict[str, Any]) -> None:
    """B49."""
    assert list(result["directions"]) == ["en-de", "de-en", "en-zh"]
    for direction, tokenizer in (("en-de", "13a"), ("de-en", "13a"), ("en-zh", "zh")):
        rows = [Translation(*row) for row in ROWS if row[0] == direction]
        assert result["directions"][direction] == metrics.score(rows, tokenizer).plain()
        assert f"tok:{tokenizer}|" in result["signatures"]["bleu"][direction]
    assert set(result["directions"]["en-de"]) == {"chrf++", "bleu", "exact", "empty", "copy", "length_ratio", "sentences"}
    assert "nw:2" in result["signatures"]["chrf++"]


def test_copies_empties_and_line_breaks_are_reported(result: dict[str, Any]) -> None:
    """B45, B46."""
    assert result["directions"]["en-de"]["copy"] == 50 and result["directions"]["en-zh"]["empty"] == 50
    assert result["newlines"] == 1 and result["directions"]["de-en"]["exact"] == 100


def test_averages_mix_no_tokenizers(result: dict[str, Any]) -> None:
    """B49."""
    averages = result["averages"]
    assert set(averages) == {"en-xx", "xx-en", "all"}
    assert averages["en-xx"]["bleu"] is None and averages["all"]["bleu"] is None
    assert averages["xx-en"] == result["directions"]["de-en"]
    chrf = [result["directions"][direction]["chrf++"] for direction in ("en-de", "en-zh")]
    assert averages["en-xx"]["chrf++"] == pytest.approx(sum(chrf) / 2) and averages["all"]["sentences"] == 5


def test_hypotheses_that_cannot_be_scored_are_the_user_s_mistake(tmp_path: Path) -> None:
    german = {code: LANGUAGES[code] for code in ("en", "de")}
    job = make_job(tmp_path / "work", "score", {"hypotheses": hypotheses(tmp_path / "in", ROWS)}, languages=german)
    with pytest.raises(UserError, match="the hypotheses hold en-zh, but this node's languages are en, de"):
        run(job)
    empty = make_job(tmp_path / "empty", "score", {"hypotheses": hypotheses(tmp_path / "none", [])})
    with pytest.raises(UserError, match="holds no hypotheses"):
        run(empty)
