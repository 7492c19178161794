"""The `outputs` stage: other systems' translations of a test set, from files as they come."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.schema import Source
from helpers.tiny_checkpoint import LANGUAGES, files, make_corpus, make_job, pairs, read
from stages.score.run import run as run_score
from stages.system_outputs.run import run

TEST = [row for turn in zip(pairs("en-de", range(1, 3)), pairs("de-en", range(1, 3)), strict=True) for row in turn]
GERMAN = [row["target"] for row in TEST if row["direction"] == "en-de"]


@pytest.fixture
def corpus(tmp_path: Path) -> Input:
    return make_corpus(tmp_path / "test", test=TEST)


def prepared(tmp_path: Path, corpus: Input, texts: dict[str, str]) -> Job:
    """A job with these files, named as the plan names them."""
    places, named = {}, {}
    for name, text in texts.items():
        path = tmp_path / f"given-{name}"
        path.write_text(text, encoding="utf-8")
        named[name] = f"sha of {name}"
        places[named[name]] = str(path)
    given = {"gpt4": Source(reader="files", files=named)}
    languages = {code: LANGUAGES[code] for code in ("en", "de")}
    job = make_job(tmp_path / "work", "system_outputs", {"test": corpus}, system_outputs=given, languages=languages)
    return Job(job.name, job.key, job.work, job.config, job.hardware, job.inputs, places)


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_plain_lines_stand_in_the_order_of_the_test_and_are_scored_as_any_hypotheses(tmp_path: Path, corpus: Input) -> None:
    """And a system that did not translate every direction has those that it did."""
    job = prepared(tmp_path, corpus, {"en-de.txt": "\n".join([*GERMAN[:-1], ""]) + "\n"})
    result = run(job)
    assert result == {"sentences": 8, "missing": ["de-en"], "unused": {}} and files(job.out) == {"hypotheses.jsonl"}
    found = read(job.out / "hypotheses.jsonl")
    assert [row["hypothesis"] for row in found] == [*GERMAN[:-1], ""]
    assert [row["reference"] for row in found] == GERMAN
    scores = run_score(make_job(tmp_path / "score", "score", {"hypotheses": Input("h", "system_outputs", str(job.out), {})}))
    assert list(scores["directions"]) == ["en-de"] and scores["directions"]["en-de"]["exact"] == 87.5


@pytest.mark.parametrize("column", ["hypothesis", "translation", "output", "target"])
def test_rows_are_found_by_their_source_in_any_order(tmp_path: Path, corpus: Input, column: str) -> None:
    rows = [{"direction": row["direction"], "source": f" {row['source']} ", column: f"made of {row['id']}"} for row in TEST]
    more = {"direction": "en-de", "source": "of another test", column: "unused"}
    job = prepared(tmp_path, corpus, {"all.jsonl": json_lines([more, *reversed(rows)])})
    assert run(job) == {"sentences": 16, "missing": [], "unused": {"en-de": 1, "de-en": 0}}
    assert all(row["hypothesis"] == f"made of {row['id']}" for row in read(job.out / "hypotheses.jsonl"))


def test_a_file_of_several_directions_may_lack_one(tmp_path: Path, corpus: Input) -> None:
    rows = [
        {"direction": "en-de", "source": row["source"], "hypothesis": row["target"]}
        for row in TEST
        if row["direction"] == "en-de"
    ]
    result = run(prepared(tmp_path, corpus, {"all.jsonl": json_lines(rows)}))
    assert (result["sentences"], result["missing"]) == (8, ["de-en"])


def of_a_file(tmp_path: Path, numbers: list[int], read: int | None) -> Input:
    """A test set made of these rows of a file with `read` rows; None as in a record made before the rows were counted."""
    found = [{"id": f"en-de:{n}", "direction": "en-de", "source": f"May {n}", "target": f"{n}. Mai"} for n in numbers]
    counts = {"cleaning": {"en-de": {"read": read}}} if read else {}
    return dataclasses.replace(make_corpus(tmp_path / "numbered", test=found), result={"counts": counts})


def lines(count: int, *empty: int) -> str:
    return "".join(("" if n in empty else f"{n}. Mai") + "\n" for n in range(1, count + 1))


@pytest.mark.parametrize(
    ("numbers", "read", "text"),
    [
        ([1, 2, 4, 5], 5, lines(5)),
        ([1, 2, 4, 5], None, lines(5)),
        (list(range(1, 101)), 793, lines(793)),
        ([1, 2, 4], 793, lines(4, 3)),
    ],
    ids=["an empty row", "an empty row, an old record", "100 of 793", "the first rows"],
)
def test_plain_lines_are_matched_by_the_number_of_the_row(
    tmp_path: Path, numbers: list[int], read: int | None, text: str
) -> None:
    job = prepared(tmp_path, of_a_file(tmp_path, numbers, read), {"en-de.txt": text})
    assert run(job)["sentences"] == len(numbers)
    assert [row["hypothesis"] for row in read_rows(job)] == [f"{n}. Mai" for n in numbers]


def read_rows(job: Job) -> list[Any]:
    return read(job.out / "hypotheses.jsonl")


@pytest.mark.parametrize(
    ("numbers", "read", "text", "message"),
    [
        (
            [*range(1, 5), *range(6, 794)],
            793,
            lines(100),
            r"gpt4, en-de: 100 lines; expected 792, one for each sentence of the test set, or 793, one for each row of its file "
            r"\(row 5 of the file without text for it, not scored\)\. To score the first 99 sentences "
            r"alone, set budget\.text\.test=99",
        ),
        (
            list(range(1, 794)),
            793,
            lines(100),
            r"100 lines; expected 793, .* set budget\.text\.test=100, or give rows with 'source'",
        ),
        ([1, 2, 4, 5], 9, lines(4, 3), r"4 lines; expected 4, .* or 9, .*row 3 of the file without text"),
        ([1, 2, 3], 9, lines(10), r"10 lines; expected 3, .* or 9, one for each row of its file, or give rows"),
    ],
    ids=["100 of 793 with an empty row", "100 of 793", "empty where the file is", "too many"],
)
def test_lines_of_another_number_are_refused_with_what_would_do(
    tmp_path: Path, numbers: list[int], read: int, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(prepared(tmp_path, of_a_file(tmp_path, numbers, read), {"en-de.txt": text}))


def test_a_source_that_stands_twice_has_two_outputs(tmp_path: Path) -> None:
    twice = [{"id": str(i), "direction": "en-de", "source": "May 1", "target": "1. Mai"} for i in range(3)]
    corpus = make_corpus(tmp_path / "twice", test=twice)
    rows = [{"source": "May 1", "hypothesis": text} for text in ("first", "second")]
    job = prepared(tmp_path, corpus, {"en-de.jsonl": json_lines(rows)})
    run(job)
    assert [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")] == ["first", "second", "second"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"en-de.txt": "one\ntwo\n"}, r"gpt4, en-de: 2 lines; expected 8, one for each sentence of the test set, or give"),
        (
            {"en-de.jsonl": '{"source": "May 1", "hypothesis": "1. Mai"}\n'},
            "7 of 8 sentences have no output; the first is 'June 1'",
        ),
        ({"en-de.jsonl": '{"source": "May 1"}\n'}, "given-en-de.jsonl:1: no column 'target'"),
        ({"all.jsonl": '{"source": "May 1", "hypothesis": "1. Mai"}\n'}, "no column 'direction'"),
        ({"en-de.jsonl": ""}, "given-en-de.jsonl is empty; expected at least one row"),
        ({"cs-en.txt": "x\n"}, r"gpt4: no output in any direction of the test \(en-de, de-en\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, corpus: Input, texts: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(prepared(tmp_path, corpus, texts))
