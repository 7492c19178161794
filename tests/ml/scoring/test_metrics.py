"""Scores against direct calls of sacrebleu, and rates against planted cases."""

from dataclasses import replace

import pytest
from sacrebleu.metrics import BLEU, CHRF

from alma_pipeline.ml.scoring import metrics
from alma_pipeline.ml.scoring.metrics import DirectionScores, ScorableTranslation
from alma_pipeline.ml.scoring.sacrebleu_metrics import MetricResult

TEXTS = {
    "13a": ("The cat sat on the mat today.", "The cat sits on a mat today!"),
    "zh": ("我们明天早上去北京。", "我们明天下午去北京。"),
    "ja-mecab": ("私たちは明日の朝東京へ行きます。", "私たちは明日の午後東京へ行きます。"),
    "ko-mecab": ("우리는 내일 아침 서울에 갑니다.", "우리는 내일 오후 서울에 갑니다."),
}


def rows(reference: str, hypothesis: str, count: int = 3) -> list[ScorableTranslation]:
    return [ScorableTranslation("en-xx", f"source {i}", f"{reference} {i}", f"{hypothesis} {i}") for i in range(count)]


@pytest.mark.parametrize("tokenizer", TEXTS)
def test_equals_sacrebleu_with_the_tokenizer_of_the_target_language(tokenizer: str) -> None:
    """B49."""
    found = rows(*TEXTS[tokenizer])
    hypotheses, references = [row.hypothesis for row in found], [[row.reference for row in found]]
    chrf, bleu = CHRF(word_order=2), BLEU(tokenize=tokenizer)
    scores = metrics.score(found, tokenizer)
    assert scores.metrics["chrf++"].score == chrf.corpus_score(hypotheses, references).score
    assert scores.metrics["bleu"].score == bleu.corpus_score(hypotheses, references).score
    assert all(0 < measured.score < 100 for measured in scores.metrics.values())
    signatures = metrics.signatures({"en-xx": scores})
    assert signatures["chrf++"]["en-xx"] == str(chrf.get_signature()) and "nw:2" in signatures["chrf++"]["en-xx"]
    assert signatures["bleu"]["en-xx"] == str(bleu.get_signature()) and f"tok:{tokenizer}" in signatures["bleu"]["en-xx"]


@pytest.mark.parametrize("tokenizer", ["zh", "ja-mecab"])
def test_the_wrong_tokenizer_would_show(tokenizer: str) -> None:
    """B49: text without spaces is one word to 13a, and one changed character loses it whole."""
    found = [ScorableTranslation("en-xx", "", *TEXTS[tokenizer])]
    right, wrong = (metrics.score(found, name).metrics["bleu"].score for name in (tokenizer, "13a"))
    assert right > 2 * wrong


def test_planted_copies_empties_and_exact_ones_are_found_at_their_rate() -> None:
    """B46: of 10 sentences 2 are empty, 3 exact, 2 copied; 2 more have a source that is its own translation."""
    planted = [
        *[ScorableTranslation("en-de", f"one {i}", f"eins {i}", "") for i in range(2)],
        *[ScorableTranslation("en-de", f"two {i}", f"zwei {i}", f"zwei {i}") for i in range(3)],
        *[ScorableTranslation("en-de", f"three {i}", f"drei {i}", f"three {i}") for i in range(2)],
        *[ScorableTranslation("en-de", f"{i}", f"{i}", f"{i}!") for i in range(2)],
        ScorableTranslation("en-de", "four", "vier", "fünf"),
    ]
    scores = metrics.score(planted, "13a")
    found = scores.plain()
    assert (found["empty"], found["exact"], found["sentences"]) == (20, 30, 10)
    assert found["copy"] == pytest.approx(100 * 2 / 8) and found["truncated"] is None
    characters = [sum(len(getattr(row, name)) for row in planted) for name in ("hypothesis", "reference")]
    assert scores.length_ratio == pytest.approx(characters[0] / characters[1])


def test_copies_cannot_be_told_where_every_source_is_its_own_reference() -> None:
    scores = metrics.score([ScorableTranslation("en-de", "12", "12", "12")], "13a")
    assert scores.plain()["copy"] is None and scores.plain()["exact"] == 100
    assert metrics.averages({"en-de": scores})["all"]["copy"] is None


def test_nothing_to_score_is_an_error_and_empty_hypotheses_are_not() -> None:
    with pytest.raises(ValueError, match="no translations"):
        metrics.score([], "13a")
    scores = metrics.score([ScorableTranslation("en-de", "one", "eins", "")] * 2, "13a")
    assert [scores.plain()[name] for name in ("chrf++", "bleu", "empty", "length_ratio")] == [0, 0, 100, 0]
    assert metrics.score([ScorableTranslation("en-de", "one", "", "")], "13a").length_ratio is None


def test_line_breaks_in_a_hypothesis_become_spaces_and_are_counted() -> None:
    """B45."""
    found = [ScorableTranslation("en-de", "a", "eins zwei", "eins\nzwei"), ScorableTranslation("en-de", "b", "drei", "drei\r\n")]
    scores = metrics.score(found, "13a")
    assert scores.plain()["exact"] == 100 and scores.newlines == 1


def make(bleu: float, tokenizer: str = "13a", source: str = "a") -> DirectionScores:
    """Seven sentences; a source that is the reference tells nothing about copies."""
    base = metrics.score([ScorableTranslation("en-xx", source, "b", "b")] * 7, "13a")
    chrf = MetricResult(bleu / 2, "nw:2")
    return replace(base, metrics={"chrf++": chrf, "bleu": MetricResult(bleu, f"tok:{tokenizer}")})


def test_averages_are_means_over_directions_by_side_of_english() -> None:
    scores = {"en-de": make(10), "de-en": make(30), "en-cs": make(20), "cs-en": make(40)}
    found = metrics.averages(scores)
    assert [found[part]["bleu"] for part in ("en-xx", "xx-en", "all")] == [15, 35, 25]
    assert [found[part]["chrf++"] for part in ("en-xx", "xx-en", "all")] == [7.5, 17.5, 12.5]
    assert [found[part]["sentences"] for part in ("en-xx", "xx-en", "all")] == [14, 14, 28]


def test_bleu_of_different_tokenizers_has_no_average() -> None:
    """B49: chrF++ has one signature for all and keeps its average."""
    found = metrics.averages({"en-de": make(10), "en-zh": make(30, "zh"), "zh-en": make(20)})
    assert found["en-xx"]["bleu"] is None and found["all"]["bleu"] is None
    assert found["xx-en"]["bleu"] == 20 and found["en-xx"]["chrf++"] == 10


def test_an_average_leaves_out_what_a_direction_cannot_tell() -> None:
    found = metrics.averages({"en-de": make(10, source="b"), "en-cs": make(10)})
    assert found["all"]["copy"] == 0 and "xx-en" not in found


def test_a_metric_added_later_has_its_average_and_its_segments() -> None:
    scores = {direction: make(10) for direction in ("en-de", "en-cs")}
    neural = MetricResult(80.0, "wmt22-comet-da", [70.0] * 6 + [140.0])
    more = {direction: metrics.with_metric(value, "comet", neural) for direction, value in scores.items()}
    assert metrics.averages(more)["all"]["comet"] == 80 and "comet" not in metrics.averages(scores)["all"]
    assert more["en-de"].segments()[6]["scores"] == {"comet": 140.0}


def test_segments_say_what_is_wrong_with_each() -> None:
    rows = [ScorableTranslation("en-de", "one", "eins", "one", True), ScorableTranslation("en-de", "two", "zwei", "zwei", False)]
    segments = metrics.score(rows, "13a", ["chrf++", "bleu", "ter"]).segments()
    assert [item["flags"]["copy"] for item in segments] == [True, False]
    assert [item["flags"]["truncated"] for item in segments] == [True, False]
    assert segments[1]["scores"] == {"chrf++": 100.0, "ter": 0.0} and segments[0]["scores"]["ter"] == 100


def test_sentence_chrf_is_sacrebleu_s_and_100_for_the_reference() -> None:
    assert metrics.sentence_chrf("Der Hund", "Der Hund") == 100
    hypothesis, reference = TEXTS["13a"][1], TEXTS["13a"][0]
    assert metrics.sentence_chrf(hypothesis, reference) == CHRF().sentence_score(hypothesis, [reference]).score
    assert metrics.sentence_chrf("", "Der Hund") == 0


def test_a_metric_that_a_direction_lacks_has_no_mean() -> None:
    """Whichever comes first: a mean over fewer directions would stand beside means over all."""
    whole = metrics.score([ScorableTranslation("en-de", "a", "eins zwei", "eins")], "13a", ["chrf++", "ter"])
    lacking = metrics.score([ScorableTranslation("en-th", "a", "ab", "a")], "char", ["chrf++"])
    for scores in ({"en-de": whole, "en-th": lacking}, {"en-th": lacking, "en-de": whole}):
        found = metrics.averages(scores)["en-xx"]
        assert found["ter"] is None and found["chrf++"] is not None
    assert metrics.averages({"en-de": whole})["en-xx"]["ter"] == 50
