"""COMET's worker and its commands, both with batches of one segment: then the scores are the same to the last bit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from alma_pipeline.ml.scoring.comet import CometSegment
from alma_pipeline.ml.scoring.paired_tests import compare_segments
from helpers.comet import comet_compare, comet_score, encoding, neural, scored, segments

ALIKE = ("--batch_size", "1", "--disable_length_batching")
LIMIT = 62
"""Pieces that the tiny models read at once; a character is a piece."""


@pytest.mark.parametrize(("name", "reference"), [("regression", True), ("unified", True), ("xcomet", True), ("xcomet", False)])
def test_scores_are_comet_score_s_to_the_last_bit(tmp_path: Path, comet_models: Path, name: str, reference: bool) -> None:
    """XCOMET's score is made of three inputs, or one without a reference, and of the errors that it finds."""
    metric, found = neural(comet_models, name, reference=reference), segments(50)
    ours = scored(metric, found, tmp_path / "cache.db", batch=1)
    rows = comet_score(tmp_path, metric, found, reference, *ALIKE)
    assert ours.scores == [100 * row["COMET"] for row in rows] and len(set(ours.scores)) > 25
    assert name != "xcomet" or any("errors" in row for row in rows), "a part of the score that is not the same everywhere"
    if name != "regression":
        assert ours.cut == [pieces(segment, reference) > LIMIT for segment in found]
        assert {True, False} == set(ours.cut)


@pytest.mark.parametrize("name", ["unified", "xcomet"])
def test_one_thread_alone_encodes_text(comet_models: Path, name: str) -> None:
    """Two would change each other's truncation: an error at times, at others a score of another input."""
    found = segments(50)
    assert encoding(comet_models, name, found) == {"cut": sum(pieces(one, True) > LIMIT for one in found), "threads": 1}


def pieces(segment: CometSegment, reference: bool) -> int:
    """Of a segment whose parts are read as one sequence, with what stands before, between and after them."""
    parts = [segment.source, segment.hypothesis, *([segment.reference] if reference and segment.reference else [])]
    return sum(len(part.replace(" ", "")) for part in parts) + len(parts) + 1


def test_the_paired_tests_are_comet_compare_s(tmp_path: Path, comet_models: Path) -> None:
    """The t-test to the digits that it prints; its bootstrap as closely as 300 samples by other random numbers can."""
    metric, found = neural(comet_models, "regression"), segments(60)
    other = [replace(segment, hypothesis=f"{segment.hypothesis} b" if at % 3 else "12") for at, segment in enumerate(found)]
    ours, theirs = (scored(metric, system, tmp_path / "cache.db", batch=1).scores for system in (found, other))
    printed = comet_compare(tmp_path, metric, found, other, *ALIKE)
    told = {name: float(value) for name, value in re.findall(r"^(.+):\t(-?[\d.]+)$", printed, re.MULTILINE)}
    test = compare_segments(theirs, ours)
    assert test.p_value == pytest.approx(told["p_value"], abs=1e-4) and 0.001 < test.p_value < 0.999
    bootstrap = [told[name] for name in ("x_wins (%)", "y_wins (%)", "ties (%)")]
    assert [test.wins, test.losses, test.ties] == pytest.approx(bootstrap, abs=0.1)
