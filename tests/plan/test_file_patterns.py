"""Files found by pattern: shards of a pair of texts, halves that are missing, names that look like patterns."""

import fnmatch
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import file_patterns
from alma_pipeline.plan.file_patterns import Match, Places, find_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")


def find(folder: Path, pattern: str, *parts: str, reversible: bool = False) -> Match:
    return find_files([pattern], list(parts) or ["de-en", "en-de"], ("",), Places(folder), reversible=reversible)


def names(found: Match) -> dict[str, str]:
    return {name: path.name for name, path in found.files.items()}


def test_all_shards_of_a_pair_are_joined_by_what_the_star_matched(tmp_path: Path) -> None:
    touch(tmp_path, "part.00.de", "part.00.en", "part.01.de.gz", "part.01.en")
    assert names(find(tmp_path, "part.*.{side}*")) == {
        "de-en/de.0.txt": "part.00.de",
        "de-en/en.0.txt": "part.00.en",
        "de-en/de.1.txt.gz": "part.01.de.gz",
        "de-en/en.1.txt": "part.01.en",
    }


def test_one_shard_keeps_the_name_of_a_single_text(tmp_path: Path) -> None:
    touch(tmp_path, "part.00.de", "part.00.en")
    assert sorted(names(find(tmp_path, "part.*.{side}"))) == ["de-en/de.txt", "de-en/en.txt"]


@pytest.mark.parametrize(
    ("present", "pattern", "lone", "expected"),
    [
        (("part.00.de", "part.00.en", "part.01.de"), "part.*.{side}", "part.01.de", "part.01.en"),
        (("part.00.en", "part.01.de"), "part.*.{side}", "part.01.de", "part.01.en"),
        (("train.de",), "train.{side}", "train.de", "train.en"),
        (("train.en",), "train.{side}", "train.en", "train.de"),
        (("de-en/x.en",), "{lang}-en/x.{side}", "x.en", "x.de"),
        (("my[v2]/p.1.de",), "my[v2]/p.*.{side}", "p.1.de", "p.1.en"),
    ],
)
def test_a_text_without_its_other_half_is_named(
    tmp_path: Path, present: tuple[str, ...], pattern: str, lone: str, expected: str
) -> None:
    touch(tmp_path, *present)
    with pytest.raises(ConfigError) as error:
        find(tmp_path, pattern, "de-en")
    assert f"/{lone}: no file for its other half; expected {tmp_path}" in str(error.value)
    assert f"/{expected}." in str(error.value)


def test_the_same_text_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train.de", "train.de.gz", "train.en")
    with pytest.raises(ConfigError, match=r"train\.de and .*train\.de\.gz: the same text twice"):
        find(tmp_path, "train.{side}*")


def test_a_table_that_is_there_packed_and_unpacked_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "de.tsv", "de.tsv.gz")
    with pytest.raises(ConfigError, match=r"de\.tsv and .*de\.tsv\.gz: the same text twice"):
        find(tmp_path, "{lang}.tsv*")
    assert names(find(tmp_path, "{lang}.tsv", "de-en")) == {"de.tsv": "de.tsv"}


def test_a_direction_without_a_file_uses_the_opposite_one_where_that_makes_sense(tmp_path: Path) -> None:
    touch(tmp_path, "t.en-cs.jsonl", "t.de-en.de", "t.de-en.en")
    found = find(tmp_path, "t.{direction}.jsonl", "cs-en", "en-cs", reversible=True)
    assert names(found) == {"en-cs.jsonl": "t.en-cs.jsonl"} and found.reversed == ["cs-en"]
    assert find(tmp_path, "t.{direction}.{side}", reversible=True).reversed == ["en-de"]
    assert find(tmp_path, "t.{direction}.jsonl", "cs-en", "en-cs").missing == ["cs-en"]


@pytest.mark.parametrize("name", ["my[v2].tsv", "a*b.tsv", "what?.tsv", "[x]/[y].tsv"])
def test_a_file_that_exists_is_no_pattern(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "myv.tsv", "aXb.tsv", "whatX.tsv", "x/y.tsv")
    assert list(find(tmp_path, name).files.values()) == [tmp_path / name]


def test_brackets_are_a_pattern_where_no_such_file_exists(tmp_path: Path) -> None:
    touch(tmp_path, "my1.tsv", "my2.tsv", "my3.tsv")
    assert names(find(tmp_path, "my[!3].tsv")) == {"all.0.tsv": "my1.tsv", "all.1.tsv": "my2.tsv"}


@given(name=st.text("ab-]![*?.", min_size=1), pattern=st.text("ab-]![*?.", min_size=1))
@settings(max_examples=300, deadline=None)
def test_a_pattern_means_what_it_means_to_the_shell(name: str, pattern: str) -> None:
    """For files that are gone, and for what a `*` matched."""
    assert bool(re.fullmatch(file_patterns._regex(pattern), name)) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("name", "holds"), [("X.TSV", "all.tsv"), ("x.Jsonl.GZ", "all.jsonl.gz"), ("x.TMX", "all.tmx"), ("x.txt.ZST", "all.txt.zst")]
)
def test_extensions_in_capitals_are_read(tmp_path: Path, name: str, holds: str) -> None:
    touch(tmp_path, name)
    assert names(find(tmp_path, name)) == {holds: name}


@pytest.mark.parametrize("name", ["x.zip", "x.tsv.ZIP", "x.tar.gz", "x.tgz", "x.xlsx"])
def test_an_archive_is_named_with_what_would_do(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, f"de.{name}", f"en.{name}")
    for pattern in (name, f"{{side}}.{name}"):
        with pytest.raises(ConfigError, match=rf"{name}: \.\S+ is not read\. Unpack or convert it to JSON lines"):
            find(tmp_path, pattern)
