"""The `corpus` stage accounts for every row that it reads."""

import json
import shutil
from pathlib import Path

import pytest

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.data.rows import account
from alma_pipeline.schema import Cleaning
from alma_pipeline.store.store import Store
from helpers.text_files import TWO, german, json_lines, make_base, make_job, nested, pairs_job, source
from stages.corpus.config import Config
from stages.corpus.run import run

SIZE = 400


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_base(tmp_path_factory.mktemp("base"))


def test_every_row_that_was_read_is_accounted_for(tmp_path: Path, base: Input) -> None:
    """Rows read = kept + dropped by reason + rejected, of each part and of all; in the record."""
    found = [
        *nested(SIZE),
        *nested(3),
        "no object",
        {"translation": {"de": "", "en": "x"}},
        {"source": "x", "target": "y", "direction": "en-de"},
    ]
    reading = source("de.jsonl", on_error="skip")
    job = pairs_job(tmp_path, base, found, pairs=reading, train=200, cleaning=Cleaning(steps=["exact"]))
    counts = run(job)["counts"]
    part = counts["cleaning"]["de-en"]
    assert (part["read"], part["kept"], part["rejected"]) == (SIZE + 6, 200, 1)
    assert {name: part["dropped"][name] for name in ("empty", "other_direction")} == {"empty": 1, "other_direction": 1}
    assert part["read"] == part["kept"] + sum(part["dropped"].values()) + part["rejected"]
    assert counts["rows"]["read"] == 2 * part["read"] and counts["rows"]["rejected"] == 2 and counts["rejected"] == 1
    files = {"de.jsonl": tmp_path / "train"}
    config = Config(form="test", pairs=reading, languages=TWO, held_out=20, seed=7)
    counts = run(make_job(tmp_path / "test", config, files))["counts"]
    assert counts["rows"] == {
        "read": 2 * (SIZE + 6),
        "kept": 40,
        "dropped": {"empty": 2, "other_direction": 1, "beyond_limit": 2 * (SIZE + 3 - 20) + 1},
        "rejected": 2,
    }
    assert counts["dropped"] == {"empty": 2} and counts["rejected"] == 1


def test_a_preparation_that_did_not_count_all_rows_begins_again(tmp_path: Path, base: Input) -> None:
    job = pairs_job(tmp_path, base, nested(SIZE))
    old = {
        "counts": {"de-en": {"dropped": {}, "changed": {}, "read": {"rows": 100}}},
        "rows": 100,
        "part": "de-en",
        "position": 100,
    }
    folder = job.resume / "step-0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"step": 100, **old, "size": 0, "kept": {}, "bytes": 0, "packed": {}}))
    assert run(job)["counts"]["rows"]["read"] == 2 * SIZE


def test_a_plan_finds_how_far_a_preparation_came(tmp_path: Path, base: Input) -> None:
    job, store, key = pairs_job(tmp_path, base, nested(SIZE)), Store(tmp_path / "store"), "0" * 64
    run(job)
    shutil.copytree(job.resume, store.work_path("corpus", key) / "resume")
    point = store.resume_point("corpus", key)
    assert point and point["step"] == 2 * SIZE and not store.skipped_resume_point("corpus", key)


def test_a_row_that_is_lost_is_an_error() -> None:
    assert account("de-en", 5, 2, {"empty": 1, "rejected": 2, "near": 0})["dropped"] == {"empty": 1}
    with pytest.raises(
        PipelineError, match=r"de-en: 6 rows were read, but 2 kept, 2 rejected and .*'empty': 1.* are not as many"
    ):
        account("de-en", 6, 2, {"empty": 1, "rejected": 2})


@pytest.mark.parametrize(("form", "setting"), [("pairs", "parallel"), ("test", "test"), ("pseudo_mono", "pseudo")])
def test_an_unknown_header_names_the_setting_of_its_source(tmp_path: Path, base: Input, form: str, setting: str) -> None:
    (tmp_path / "table").write_text("Das Haus.\tThe house.\nZwei.\tTwo.\n")
    files = {"de.tsv": tmp_path / "table", "de.jsonl": json_lines(tmp_path / "x", [{"text": german(n)} for n in range(SIZE)])}
    config = Config(
        form=form, pairs=source("de.tsv"), text=source("de.jsonl"), probabilities={"de": 1.0}, languages=TWO, held_out=1, seed=7
    )
    with pytest.raises(UserError, match=rf"table:2: no text in de and en.*'data\.{setting}\.columns={{de: 1, en: 2}}'"):
        run(make_job(tmp_path / "one", config, files, base=base))
