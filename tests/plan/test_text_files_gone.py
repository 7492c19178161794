"""Text that is gone: what is finished is known by its last digest, and a node that must read it is refused."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError
from alma_pipeline.files import last_digests
from alma_pipeline.plan.plan import Plan, Rerun, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.text_files import json_lines, nested

STAGE = [
    "stage=parallel",
    "data=alma",
    "stages.parallel.inputs.init=base",
    "evaluation.checkpoints=[parallel]",
    "directions=[de-en]",
]


@functools.cache
def composed(*words: str) -> Config:
    return load.load(list(words))


def by_path(folder: Path) -> list[str]:
    """Training text in two shards of two sides, a table as test, and a system's outputs."""
    folder.mkdir()
    for shard in ("0", "1"):
        for side in ("de", "en"):
            (folder / f"train.{shard}.{side}").write_text(f"{shard} {side}\n")
    (folder / "test.tsv").write_text("de\ten\na\tb\n")
    (folder / "gpt4.de-en.txt").write_text("b\n")
    words = [f"data.{name}.reader=files" for name in ("parallel", "test")]
    words += [f"data.parallel.path='{folder}/train.*.{{side}}'", f"data.test.path='{folder}/test.tsv'"]
    return [*STAGE, *words, f"evaluation.outputs.gpt4='{folder}/gpt4.{{direction}}.txt'"]


def by_root(folder: Path) -> list[str]:
    json_lines(folder / "deen" / "train.de-en.json", nested(20))
    json_lines(folder / "deen" / "valid.de-en.json", nested(3))
    return [*STAGE, f"data.root={folder}"]


def finished(store: Store, words: list[str]) -> Plan:
    """The plan of a recipe of which everything is made."""
    fill(store, make_plan(composed(*words), store, Rerun()))
    return make_plan(composed(*words), Store(store.root), Rerun())


@pytest.mark.parametrize("given", [by_path, by_root])
def test_a_finished_recipe_needs_no_text(tmp_path: Path, store: Store, given: Callable[[Path], list[str]]) -> None:
    words = given(tmp_path / "text")
    before = finished(store, words)
    assert {step.verdict for step in before.steps} == {"reuse"}
    shutil.rmtree(tmp_path / "text")
    after = make_plan(composed(*words), Store(store.root), Rerun())
    assert [(step.key, step.verdict) for step in after.steps] == [(step.key, "reuse") for step in before.steps]
    notes = after["parallel_corpus"].node.notes
    assert len(notes) == 1 and notes[0].endswith(" gone; what was made of the text is known by its last SHA-256")


def test_a_node_that_must_read_it_is_refused_with_the_file(tmp_path: Path, store: Store) -> None:
    words = by_path(tmp_path / "text")
    finished(store, words)
    (tmp_path / "text" / "train.1.en").unlink()
    config = composed(*words)
    with pytest.raises(ConfigError, match=r"parallel_corpus must read .*/train\.1\.en, which is gone \(run: --force\)"):
        make_plan(config, store, Rerun(force=("parallel_corpus",)))
    assert make_plan(config, store, Rerun(force=("parallel",)))["parallel"].verdict == "run", "its corpus is finished"
    other = composed(*words, "stages.parallel_corpus.max_source=99")
    with pytest.raises(ConfigError, match=r"must read .*train\.1\.en, which is gone \(run: stages\.parallel_corpus\.max_source"):
        make_plan(other, store, Rerun())
    assert make_plan(other, store)["parallel_corpus"].node.gone, "a report, or a translation, runs nothing"


def test_text_that_no_plan_ever_saw_is_missing(tmp_path: Path, store: Store) -> None:
    words = by_path(tmp_path / "text")
    shutil.rmtree(tmp_path / "text")
    with pytest.raises(ConfigError, match=r"train\.\*\.\{side\} has no text for de-en"):
        make_plan(composed(*words), store)


def test_a_shard_of_which_both_halves_are_gone_is_no_longer_part_of_the_text(tmp_path: Path, store: Store) -> None:
    words = by_path(tmp_path / "text")
    before = finished(store, words)
    for side in ("de", "en"):
        (tmp_path / "text" / f"train.1.{side}").unlink()
    after = make_plan(composed(*words), Store(store.root), Rerun())
    assert after["parallel_corpus"].verdict == "run" and after["parallel_corpus"].key != before["parallel_corpus"].key


def test_the_last_digest_of_a_file_counts(tmp_path: Path, store: Store) -> None:
    words = by_path(tmp_path / "text")
    make_plan(composed(*words), store)
    (tmp_path / "text" / "test.tsv").write_text("de\ten\nc\td\n")
    before = finished(store, words)
    (tmp_path / "text" / "test.tsv").unlink()
    assert make_plan(composed(*words), store, Rerun())["test_corpus"].key == before["test_corpus"].key


def test_a_damaged_cache_knows_nothing(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("[1")
    assert last_digests(tmp_path / "digests.json") == {} and last_digests(None) == {}


def test_files_of_the_store_are_not_looked_for(tmp_path: Path, store: Store) -> None:
    words = by_path(tmp_path / "text")
    finished(store, words)
    assert "/artifacts/" in (store.root / "digests.json").read_text()
    assert {path.parent for path in last_digests(store.root / "digests.json")} == {tmp_path / "text"}
