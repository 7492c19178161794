"""Schedules of part names, and rows read by them."""

from pathlib import Path

from alma_pipeline.ml.data.mixing import (
    RowFiles,
    arrange_rows,
    documents_first,
    mix,
    round_robin,
    sample_interleaved,
    temperature_shares,
)


def test_round_robin_and_documents_first_use_each_row_once() -> None:
    assert list(round_robin({"a": 1, "b": 3})) == ["a", "b", "b", "b"]
    assert list(documents_first({"en": 2, "de-en": 2, "de": 1, "cs-en": 1})) == ["en", "en", "de", "de-en", "cs-en", "de-en"]
    assert arrange_rows({"a": [1], "b": [2, 3]}, round_robin) == [1, 2, 3]


def test_shares_follow_the_temperature() -> None:
    sizes = {"a": 100, "b": 900}
    assert temperature_shares(sizes, 1.0) == sizes
    assert temperature_shares(sizes, 2.0) == {"a": 10.0, "b": 30.0}


def test_a_part_that_runs_out_starts_over_until_all_are_used_up() -> None:
    found = list(sample_interleaved({"a": 100, "b": 900}, {"a": 0.5, "b": 0.5}, seed=3))
    assert found.count("b") == 900 and abs(found.count("a") / len(found) - 0.5) < 0.05


def test_parts_without_a_share_or_rows_are_left_out() -> None:
    assert list(sample_interleaved({"a": 1, "b": 1, "c": 0}, {"a": 1.0, "b": 0.0, "c": 1.0}, seed=1)) == ["a"]


def test_pairs_are_mixed_in_at_their_share() -> None:
    both = list(mix({"a": 50}, {"a": 1.0}, {"de-en": 200}, 0.5, seed=3))
    assert both.count("de-en") >= 200 and abs(both.count("a") / len(both) - 0.5) < 0.1


def test_row_files_start_over_and_resume_at_an_offset(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n3\n")
    files = RowFiles({"a": tmp_path / "a"}, {})
    assert [files.next("a") for _ in range(5)] == [b"1\n", b"2\n", b"3\n", b"1\n", b"2\n"]
    offsets = files.offsets
    files.close()
    resumed = RowFiles({"a": tmp_path / "a"}, offsets)
    assert offsets == {"a": 4} and resumed.next("a") == b"3\n"
    resumed.close()
