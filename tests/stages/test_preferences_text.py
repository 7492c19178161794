"""The `preferences` stage on released triples, in the two published schemas."""

from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.schema import Source
from helpers.text_files import LANGUAGES, json_lines, make_job, rows
from stages.preferences.config import Config
from stages.preferences.run import run

TWO = {code: LANGUAGES[code] for code in ("en", "de")}


def flat(count: int) -> list[dict[str, str]]:
    """Rows as X-ALMA-Preference has them, two for each source."""
    return [
        {"source": f"Sentence {n}", "chosen": f"Satz {n}", "reject": f"Satz {n} {end}", "directions": "en-de"}
        for n in range(count)
        for end in ("a", "b")
    ]


def ranked(number: int, delta: float) -> dict[str, Any]:
    """A row as ALMA-R-Preference has them."""
    row: dict[str, Any] = {
        "de": f"Satz {number}",
        "en": f"Sentence {number}",
        "language_pair": "en-de",
        "required_directions": "",
    }
    row |= {f"{name}_{side}": f"{name} {side} {number}" for name in ("alma", "gpt4") for side in ("de", "en")}
    for side in ("de", "en"):
        row |= {f"{name}_{side}_kiwi_xcomet": score for name, score in (("alma", 0.7), ("gpt4", 0.9), ("ref", 0.8))}
    return {"translation": row | {"Delta": delta}}


def made(tmp_path: Path, name: str, found: list[Any], **settings: Any) -> tuple[Path, dict[str, Any]]:
    files = {name: json_lines(tmp_path / "x", found)}
    source = Source(reader="files", files={name: name}, on_error=settings.pop("on_error", "stop"))
    config = Config(**{"pairs": source, "languages": TWO, "directions": ["en-de"], "held_out": 5, "seed": 7, **settings})
    job = make_job(tmp_path / "work", config, files)
    return job.out, run(job)["counts"]


def test_x_alma_triples_keep_a_source_on_one_side(tmp_path: Path) -> None:
    out, counts = made(tmp_path, "all.jsonl", [*flat(100), {**flat(1)[0], "reject": "Satz 0"}, {**flat(1)[0], "chosen": " "}])
    train, dev = rows(out / "train.jsonl"), rows(out / "dev.jsonl")
    assert counts["dropped"] == {"equal_texts": 1, "empty": 1}
    assert counts["train_examples"] == len(train) == 190 and counts["dev_examples"] == len(dev) == 10
    assert not {row["source"] for row in train} & {row["source"] for row in dev}
    assert {tuple(row) for row in train} == {("id", "direction", "source", "chosen", "rejected")}
    assert train[0]["chosen"].startswith("Satz") and train[0]["rejected"] == f"{train[0]['chosen']} a"


def test_alma_r_triples_by_score_and_by_delta(tmp_path: Path) -> None:
    same = ranked(200, 0.0)
    same["translation"]["alma_de"] = same["translation"]["gpt4_de"]
    out, counts = made(tmp_path, "de.jsonl", [same, *(ranked(n, -1.0 if n % 2 else 0.0) for n in range(100))])
    assert counts["dropped"] == {"equal_texts": 1}
    for row in rows(out / "train.jsonl"):
        expected = ("alma de", "gpt4 de") if int(row["source"].split()[1]) % 2 else ("gpt4 de", "alma de")
        assert (row["chosen"].rpartition(" ")[0], row["rejected"].rpartition(" ")[0]) == expected


def test_a_direction_without_triples_and_a_wrong_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"de-en: 0 preference triples.*directions="):
        made(tmp_path / "one", "all.jsonl", flat(100), directions=["en-de", "de-en"])
    with pytest.raises(UserError, match=r"x:201: no column 'rejected' or 'reject'"):
        made(tmp_path / "two", "all.jsonl", [*flat(100), {"source": "a", "chosen": "b", "directions": "en-de"}])
    _, counts = made(tmp_path / "three", "all.jsonl", [*flat(100), {"source": "a"}], on_error="skip")
    assert counts["rejected"] == 1
    assert counts["rows"] == {"read": 201, "kept": 200, "dropped": {}, "rejected": 1}
