"""Slurm's time limits."""

import math

import pytest

from alma_pipeline.schema import Hardware
from alma_pipeline.schema.time_limit import limit_seconds, notice_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("90", 5400), ("1:30", 90), ("24:00:00", 86_400), ("2-12", 216_000), ("1-00:30", 88_200), ("1-00:00:01", 86_401)],
        *[("UNLIMITED", math.inf), ("0", math.inf)],
    ],
)
def test_each_of_slurms_formats_is_read(text: str, seconds: float) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "24:00:00:00", "1-", "-5", "1:2-3", "86400"])
def test_another_one_is_refused_with_the_formats(text: str) -> None:
    [problem] = Hardware(name="x", time_limit=text).conflicts()
    assert problem.startswith("time_limit: found ") and ("D-HH:MM:SS" in problem or "quotes" in problem)


def test_the_notice_leaves_most_of_a_short_limit_for_training() -> None:
    assert [notice_seconds(text) for text in ("24:00:00", "1", "UNLIMITED")] == [300, 10, 300]
