"""Chosen and rejected among planted candidates, each reason to drop a source, and the choice of sources."""

from collections import Counter

import pytest

from alma_pipeline.ml.scoring.candidates import (
    REFERENCE,
    SAMPLE,
    ScoredCandidate,
    SourceSentence,
    build_triples,
    choose_pair,
    choose_sources,
)

BEST = ScoredCandidate("das ist gut", 100.0, REFERENCE)


def samples(*found: tuple[str, float]) -> list[ScoredCandidate]:
    return [ScoredCandidate(text, score, SAMPLE) for text, score in found]


def test_the_best_is_chosen_and_the_worst_rejected() -> None:
    made = choose_pair([*samples(("das ist", 60), ("gut", 20), ("ist", 25)), BEST], 5)
    assert made.chosen == BEST and made.rejected is not None and made.rejected.text == "gut" and not made.dropped


def test_a_sample_can_be_chosen_over_the_reference() -> None:
    reference = ScoredCandidate("schwach", 40.0, REFERENCE)
    made = choose_pair([*samples(("stark", 80), ("mittel", 60)), reference], 5)
    assert made.chosen is not None and made.chosen.text == "stark" and made.rejected == reference


def test_of_equal_scores_the_reference_wins_then_the_earlier() -> None:
    made = choose_pair([*samples(("a", 100), ("b", 10), ("c", 10)), BEST], 5)
    assert made.chosen == BEST and made.rejected is not None and made.rejected.text == "b"


def test_a_sample_that_repeats_the_reference_is_not_its_opponent() -> None:
    made = choose_pair([*samples(("das ist gut", 100), ("gut", 30)), BEST], 5)
    assert made.chosen == BEST and made.rejected is not None and made.rejected.text == "gut"


@pytest.mark.parametrize(
    ("reason", "candidates"),
    [
        ("one_candidate", [BEST]),
        ("one_candidate", [*samples(("das ist gut", 100), ("das ist gut", 100)), BEST]),
        ("empty_chosen", [*samples(("gut", 10)), ScoredCandidate(" ", 50, REFERENCE)]),
        ("empty_rejected", [*samples(("", 0), ("gut", 30)), BEST]),
        ("equal_texts", [*samples(("das  ist gut", 70)), BEST]),
        ("equal_texts", [*samples(("u\u0308ber", 40)), ScoredCandidate("\u00fcber", 100, REFERENCE)]),
        ("tie", [*samples(("gut ist das", 100)), BEST]),
        ("small_margin", [*samples(("das ist gute", 95.1)), BEST]),
    ],
)
def test_each_reason_to_drop(reason: str, candidates: list[ScoredCandidate]) -> None:
    assert choose_pair(candidates, 5).dropped == reason


def test_the_margin_itself_is_enough() -> None:
    assert not choose_pair([*samples(("das ist", 95.0)), BEST], 5).dropped


def test_a_tie_is_dropped_at_any_margin() -> None:
    assert choose_pair([*samples(("gut ist das", 100)), BEST], 0).dropped == "tie"
    assert not choose_pair([*samples(("gut ist das", 99.9)), BEST], 0).dropped


def test_rows_are_flat_and_keep_every_candidate_and_the_rest_is_counted() -> None:
    sources = [SourceSentence(f"{i}", direction, "good", BEST.text) for i, direction in enumerate(["en-de", "en-de", "en-cs"])]
    found = [[*samples(("gut", 30), ("ist", 20)), BEST], [BEST], [*samples(("", 0)), BEST]]
    made = build_triples(sources, found, 5)
    assert [(row["id"], row["dropped"], len(row["candidates"])) for row in made.unpaired] == [
        ("1", "one_candidate", 1),
        ("2", "empty_rejected", 2),
    ]
    assert made.rows == [
        {
            "id": "0",
            "source": "good",
            "chosen": "das ist gut",
            "rejected": "ist",
            "direction": "en-de",
            "chosen_score": 100,
            "rejected_score": 20,
            "candidates": [
                {"text": "gut", "score": 30, "origin": "sample"},
                {"text": "ist", "score": 20, "origin": "sample"},
                {"text": "das ist gut", "score": 100, "origin": "reference"},
            ],
        }
    ]
    assert made.dropped == {"en-de": {"one_candidate": 1}, "en-cs": {"empty_rejected": 1}}
    assert made.chosen_is_reference == Counter({"en-de": 1})


def corpus(direction: str, *sources: str) -> dict[str, list[SourceSentence]]:
    return {direction: [SourceSentence(f"{i}", direction, source, "r") for i, source in enumerate(sources)]}


def test_sources_are_drawn_by_seed_and_direction_and_stay_in_order() -> None:
    rows = corpus("en-de", *(f"s{i}" for i in range(50))) | corpus("en-cs", *(f"s{i}" for i in range(50)))
    chosen, dropped = choose_sources(rows, 10, seed=3)
    assert Counter(row.direction for row in chosen) == {"en-de": 10, "en-cs": 10}
    places = [[int(row.id) for row in chosen if row.direction == direction] for direction in rows]
    assert places[0] == sorted(places[0]) and places[0] != places[1] and places[0] != list(range(10))
    assert choose_sources(rows, 10, seed=3)[0] == chosen != choose_sources(rows, 10, seed=4)[0]
    assert dropped == {"en-de": {}, "en-cs": {}}


def test_repeated_sources_and_those_in_training_are_left_out_and_counted() -> None:
    rows = corpus("en-de", "a", "b", "a", "c", "b", "a") | corpus("en-cs", "a", "d")
    chosen, dropped = choose_sources(rows, 10, seed=0, taken=frozenset({"a", "x"}))
    assert [(row.direction, row.source, row.id) for row in chosen] == [
        ("en-de", "b", "1"),
        ("en-de", "c", "3"),
        ("en-cs", "d", "1"),
    ]
    assert dropped == {"en-de": {"repeated_source": 3, "source_in_training": 1}, "en-cs": {"source_in_training": 1}}


def test_the_margin_rule_rejects_the_hardest_that_is_clearly_worse() -> None:
    found = [*samples(("nah", 97), ("klar schlechter", 95), ("schlecht", 40)), BEST]
    made = choose_pair(found, 5, "margin")
    assert made.chosen == BEST and made.rejected is not None and made.rejected.text == "klar schlechter" and not made.dropped
    assert choose_pair([*samples(("nah", 97)), BEST], 5, "margin").dropped == "small_margin"
    assert choose_pair([*samples(("gleich", 100)), BEST], 0, "margin").dropped == "tie"


def test_the_reference_rule_asks_no_metric_whether_the_reference_is_good() -> None:
    """X-ALMA's: the score only says which sample is the worst."""
    reference = ScoredCandidate("schwach", 40.0, REFERENCE)
    made = choose_pair([*samples(("stark", 80), ("mittel", 60)), reference], 5, "reference")
    assert made.chosen == reference and made.rejected is not None and made.rejected.text == "mittel" and not made.dropped
    assert choose_pair([*samples(("  ", 80)), reference], 5, "reference").dropped == "empty_rejected"
    assert choose_pair([*samples(("schwach ", 80)), reference], 5, "reference").dropped == "equal_texts"
    with pytest.raises(ValueError, match="no reference among the candidates"):
        choose_pair(samples(("a", 1), ("b", 2)), 5, "reference")


def test_where_the_chosen_and_the_rejected_came_from_is_counted() -> None:
    source = SourceSentence("1", "en-de", "good", BEST.text)
    other = ScoredCandidate("sehr gut", 70.0, "gpt4")
    made = build_triples([source, source], [[*samples(("schlecht", 10)), other, BEST], [other, BEST]], 5)
    assert made.chosen_from == {REFERENCE: 2} and made.rejected_from == {SAMPLE: 1, "gpt4": 1}
