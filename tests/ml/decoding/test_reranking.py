"""Choosing among candidates: against definitions written out, and with a scorer that can be counted."""

from collections.abc import Sequence

import pytest
from sacrebleu.metrics import CHRF

from alma_pipeline.ml.decoding.reranking import best_quality, chrf, minimum_bayes_risk, pair_sources

CANDIDATES = [
    ["the house is small", "the house is small", "a house is little", "completely different words"],
    ["yes", "no"],
    ["one alone"],
]


class Counting:
    """A scorer that remembers what it was asked: the share of the hypothesis' words that the other text has."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
        self.asked += zip(hypotheses, references, strict=True)
        return [
            sum(word in reference.split() for word in hypothesis.split()) / max(1, len(hypothesis.split()))
            for hypothesis, reference in zip(hypotheses, references, strict=True)
        ]


def test_minimum_bayes_risk_is_the_mean_gain_over_all_candidates() -> None:
    def gain(texts: list[str], hypothesis: str) -> float:
        return float(sum(CHRF().sentence_score(hypothesis, [reference]).score for reference in texts) / len(texts))

    expected = [max(range(len(texts)), key=lambda place: gain(texts, texts[place])) for texts in CANDIDATES]
    assert minimum_bayes_risk(CANDIDATES, chrf) == expected
    assert expected[0] == 0 and expected[2] == 0


def test_a_repeated_candidate_weighs_as_often_as_it_was_sampled() -> None:
    texts = ["a b c", "a b d", "x y z"]
    assert minimum_bayes_risk([texts], Counting()) == [0]
    assert minimum_bayes_risk([[*texts, "x y z", "x y z"]], Counting()) == [2]


def test_each_pair_of_different_texts_is_scored_once_in_one_call() -> None:
    scorer = Counting()
    minimum_bayes_risk(CANDIDATES, scorer)
    assert len(scorer.asked) == len(set(scorer.asked)) == 3 * 3 + 2 * 2 + 1


def test_quality_holds_candidates_against_their_own_source() -> None:
    scorer = Counting()
    found = best_quality([["a b", "c d", "c d"], ["a b", "c d"]], ["c d e", "a e"], scorer)
    assert found == [1, 0]
    assert scorer.asked == [("a b", "c d e"), ("c d", "c d e"), ("a b", "a e"), ("c d", "a e")]


def test_of_equals_the_first_is_taken() -> None:
    assert minimum_bayes_risk([["", ""], ["b a", "a b"]], Counting()) == [0, 0]
    assert best_quality([["p", "q"]], ["r"], Counting()) == [0]


def test_a_scorer_may_see_the_source_of_each_pair() -> None:
    scorer = Counting()
    minimum_bayes_risk(CANDIDATES, scorer)
    sources = pair_sources(CANDIDATES, ["s", "t", "u"])
    assert [(text, source) for (text, _), source in zip(scorer.asked, sources, strict=True)] == [
        (text, source)
        for texts, source in zip(CANDIDATES, ["s", "t", "u"], strict=True)
        for text in dict.fromkeys(texts)
        for _ in dict.fromkeys(texts)
    ]


def test_no_candidates_at_all() -> None:
    assert minimum_bayes_risk([], chrf) == best_quality([], [], chrf) == []
    with pytest.raises(ValueError, match="a source without candidates"):
        minimum_bayes_risk([["a"], []], chrf)
    with pytest.raises(ValueError):
        best_quality([["a"]], ["s", "t"], chrf)


def test_chrf_is_sacrebleu_s() -> None:
    assert chrf(["das Haus", ""], ["das Haus", "leer"]) == [pytest.approx(100.0), 0.0]
