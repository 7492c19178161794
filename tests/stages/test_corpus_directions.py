"""The `corpus` stage on files of one direction: each direction reads its own, and a pair of texts all of its shards."""

import json
from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.job import Job
from alma_pipeline.plan.plan import Step, make_plan
from alma_pipeline.schema import Hardware
from alma_pipeline.store.store import Store
from helpers.text_files import json_lines, rows
from stages.corpus.run import run

BOTH = "directions=[de-en,en-de]"


def lines(path: Path, text: str, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text} {number}\n" for number in range(count)), encoding="utf-8")


def planned(tmp_path: Path, *overrides: str) -> Step:
    words = ["stage=base", "data=alma", "evaluation.checkpoints=[base]", "budget.text.test=null", *overrides]
    return make_plan(load.load(words), Store(tmp_path / "store"))["test_corpus"]


def made(tmp_path: Path, step: Step) -> list[tuple[str, str, str]]:
    """The rows of the test set: direction, source and target."""
    job = Job("test_corpus", step.key, str(tmp_path / "work"), step.node.config, Hardware(name="cpu"), {}, step.node.files)
    run(job)
    return [(row["direction"], row["source"], row["target"]) for row in rows(job.out / "test.jsonl")]


def of_each(tmp_path: Path) -> None:
    """Test sets as WMT has them: 3 sentences into English, 5 out of it."""
    for direction, count in (("de-en", 3), ("en-de", 5)):
        for side in ("de", "en"):
            lines(tmp_path / f"test.{direction}.{side}", f"{side} of {direction}", count)


@pytest.mark.parametrize("directions", [BOTH, "directions=[en-de,de-en]"])
def test_texts_of_one_direction_stay_apart(tmp_path: Path, directions: str) -> None:
    of_each(tmp_path)
    path = f"data.test.path='{tmp_path}/test.{{direction}}.{{side}}'"
    step = planned(tmp_path, "data.test.reader=files", path, directions)
    found = made(tmp_path, step)
    assert [row[0] for row in found].count("de-en") == 3 and [row[0] for row in found].count("en-de") == 5
    assert {row[1].rpartition(" ")[0] for row in found if row[0] == "de-en"} == {"de of de-en"}
    assert {row[1].rpartition(" ")[0] for row in found if row[0] == "en-de"} == {"en of en-de"}
    assert step.node.notes == []


def test_rows_without_text_keep_their_numbers(tmp_path: Path) -> None:
    """Other systems' outputs have a line for them."""
    for side in ("de", "en"):
        (tmp_path / f"test.{side}").write_text(f"{side} 1\n\n{side} 3\n")
    step = planned(tmp_path, "data.test.reader=files", f"data.test.path='{tmp_path}/test.{{side}}'", "directions=[de-en]")
    job = Job("test_corpus", step.key, str(tmp_path / "work"), step.node.config, Hardware(name="cpu"), {}, step.node.files)
    assert run(job)["counts"]["cleaning"]["de-en"]["read"] == 3
    assert [row["id"] for row in rows(job.out / "test.jsonl")] == ["de-en:1", "de-en:3"]


def test_one_file_of_a_pair_serves_both_directions_and_the_plan_reports_it(tmp_path: Path) -> None:
    for side in ("de", "en"):
        lines(tmp_path / f"test.en-de.{side}", side, 4)
    step = planned(tmp_path, "data.test.reader=files", f"data.test.path='{tmp_path}/test.{{direction}}.{{side}}'", BOTH)
    assert step.node.notes == [
        "stages.test_corpus.pairs: no text of its own for de-en; the text of the opposite direction is used, reversed"
    ]
    found = made(tmp_path, step)
    assert ("de-en", "de 0", "en 0") in found and ("en-de", "en 3", "de 3") in found and len(found) == 8


def test_source_and_target_of_the_opposite_direction_change_sides(tmp_path: Path) -> None:
    json_lines(tmp_path / "test.en-de.jsonl", [{"source": "house", "target": "Haus"}])
    step = planned(tmp_path, "data.test.reader=files", f"data.test.path='{tmp_path}/test.{{direction}}.jsonl'", BOTH)
    assert made(tmp_path, step) == [("de-en", "Haus", "house"), ("en-de", "house", "Haus")]


def alma(root: Path, name: str, count: int) -> None:
    found = [{"translation": {"de": f"de {name} {n}", "en": f"en {name} {n}"}} for n in range(count)]
    (root / "deen").mkdir(parents=True, exist_ok=True)
    (root / "deen" / f"{name}.json").write_text(json.dumps(found))


def test_almas_own_test_sets_of_each_direction_stay_apart(tmp_path: Path) -> None:
    alma(tmp_path / "human", "test.de-en", 3)
    reversed_key = planned(tmp_path, f"data.root={tmp_path / 'human'}", BOTH)
    assert list(reversed_key.node.config.pairs.files) == ["de.json"]  # type: ignore[attr-defined]
    assert "no text of its own for en-de" in reversed_key.node.notes[0]
    alma(tmp_path / "human", "test.en-de", 5)
    step = planned(tmp_path, f"data.root={tmp_path / 'human'}", BOTH)
    assert sorted(step.node.config.pairs.files) == ["de.json", "en-de.json"]  # type: ignore[attr-defined]
    assert step.key != reversed_key.key and step.node.notes == []
    found = made(tmp_path, step)
    assert [row[1] for row in found if row[0] == "de-en"] == [f"de test.de-en {n}" for n in range(3)]
    assert [row[1] for row in found if row[0] == "en-de"] == [f"en test.en-de {n}" for n in range(5)]


def test_keys_stay_where_both_directions_have_one_text(tmp_path: Path) -> None:
    """Names say what was right before: the pair's name for one direction alone, and for two directions with equal texts."""
    for direction in ("de-en", "en-de"):
        for side in ("de", "en"):
            lines(tmp_path / f"same.{direction}.{side}", side, 4)
    pattern = [f"data.test.path='{tmp_path}/same.{{direction}}.{{side}}'", "data.test.reader=files"]
    for directions in (BOTH, "directions=[de-en]", "directions=[en-de]"):
        names = planned(tmp_path, *pattern, directions).node.config.pairs.files  # type: ignore[attr-defined]
        assert sorted(names) == ["de-en/de.txt", "de-en/en.txt"]
    alma(tmp_path / "human", "test.de-en", 3)
    alone = planned(tmp_path, f"data.root={tmp_path / 'human'}", BOTH).key
    (tmp_path / "human" / "deen" / "test.en-de.json").write_bytes((tmp_path / "human" / "deen" / "test.de-en.json").read_bytes())
    assert planned(tmp_path, f"data.root={tmp_path / 'human'}", BOTH).key == alone


def test_all_shards_of_a_pair_of_texts_are_read(tmp_path: Path) -> None:
    for shard, count in (("00", 200), ("01", 200)):
        for side in ("de", "en"):
            lines(tmp_path / f"part.{shard}.{side}", f"{side} of {shard}", count)
    step = planned(tmp_path, "data.test.reader=files", f"data.test.path='{tmp_path}/part.*.{{side}}'", "directions=[de-en]")
    found = made(tmp_path, step)
    assert len(found) == 400
    assert found[0] == ("de-en", "de of 00 0", "en of 00 0") and found[-1] == ("de-en", "de of 01 199", "en of 01 199")
