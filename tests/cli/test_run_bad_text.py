"""Text that cannot be used, through the whole command: exit 2 and one paragraph with file and line; `data.on_error=skip`."""

import gzip
import importlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alma_pipeline.cli import main
from alma_pipeline.errors import UserError
from alma_pipeline.execution import launch
from alma_pipeline.files import write_json
from alma_pipeline.job import read_job
from helpers.text_files import english, german, json_lines, nested

WORDS = [
    *("stage=parallel", "model=tiny", "data=alma", "hardware=cpu", "budget=demo", "tracking=none", "directions=de-en"),
    *("evaluation=controls", "budget.text.test=1", "--only", "test_corpus", "data.test.reader=files"),
]


class Ended:
    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def stop(self) -> None: ...


class Here:
    """Does a job in this process, and leaves what a worker leaves."""

    def __init__(self, *given: object) -> None: ...

    def start(self, work: Path, token: str, distributed: bool) -> Ended:
        job = read_job(work / "job.json")
        try:
            write_json(work / "result.json", importlib.import_module(f"stages.{job.config.kind}.run").run(job))
        except UserError as error:
            write_json(work / "error.json", {"message": str(error)})
            return Ended(2)
        return Ended(0)

    def close(self) -> None: ...


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`command(PATTERN, more words)` in a store of its own; the exit code."""
    before = signal.getsignal(signal.SIGTERM)  # the command takes it for an interruption
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(launch, "Launcher", Here)

    def run(pattern: str, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alma-pipeline", *WORDS, f"data.test.path={tmp_path}/{pattern}", *words])
        return main.main()

    yield run
    signal.signal(signal.SIGTERM, before)


def write_cut_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in nested(500)).encode())[:-40])


def write_cut_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested(500)), path)
    path.write_bytes(path.read_bytes()[:-40])


def lines(*rows: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(b"".join(row + b"\n" for row in rows))


GOOD = json.dumps(nested(1)[0]).encode()
BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "broken JSON": ("de.jsonl", lines(GOOD, b'{"translation": {'), "/de.jsonl:2: broken JSON"),
    "wrong column": ("de.jsonl", lines(GOOD, b'{"german": "a", "en": "b"}'), "/de.jsonl:2: no text in de and en"),
    "not UTF-8": ("de.tsv", lines(b"de\ten", b"a\tb", b"M\xfcller\tMiller"), "/de.tsv:3: not UTF-8: byte 0xfc"),
    "empty file": ("de.csv", lines(), "/de.csv is empty; expected at least one row"),
    "truncated gzip": ("de.jsonl.gz", write_cut_gzip, "/de.jsonl.gz cannot be read to its end (Compressed file ended before"),
    "truncated Parquet": ("de.parquet", write_cut_parquet, "/de.parquet cannot be read to its end"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_ends_the_command_with_2_and_its_place(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, write, message = BAD[name]
    write(tmp_path / file)
    # All rows are asked for, so that none is left unread.
    assert command(file.replace("de.", "{lang}.", 1), "budget.text.test=null") == 2
    said = capsys.readouterr().err
    assert f"test_corpus: {tmp_path}{message}" in said and "Traceback" not in said
    assert said.count("\n") == 1, "one paragraph"
    assert not list((tmp_path / "store").glob("artifacts/*"))


def test_a_pair_of_texts_of_unequal_length(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.de").write_text("eins\nzwei\ndrei\n")
    (tmp_path / "x.en").write_text("one\ntwo\n")
    assert command("x.{side}", "budget.text.test=null") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/x.en:3: " in said and "x.de has 3 lines and" in said and "x.en has 2 lines" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["directions=xx-en"], "'xx' in xx-en is not in the language table"),
        (["directions=de-en,cs-en"], "has no text for cs-en; looked for"),
    ],
    ids=["unknown language", "direction without data"],
)
def test_what_the_plan_finds_out(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    json_lines(tmp_path / "de.jsonl", nested(3))
    assert command("{lang}.jsonl", *words) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "store").exists()


def test_a_row_in_an_unknown_language(tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """The worker hears of every language of the table: French is none of this run's, and passed over."""
    json_lines(
        tmp_path / "all.jsonl", [{"source": "a", "target": "b", "direction": name} for name in ("de-en", "fr-en", "xq-en")]
    )
    assert command("all.jsonl", "budget.text.test=null") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/all.jsonl:3: direction 'xq-en': 'xq' is not in the language table" in said and "Traceback" not in said
    assert command("all.jsonl", "data.on_error=skip", "budget.text.test=1") == 0
    [folder] = (tmp_path / "store" / "artifacts").iterdir()
    assert json.loads((folder / "record.json").read_text())["result"]["counts"]["rejected"] == 1


def test_rows_that_are_skipped_are_counted_and_kept(tmp_path: Path, command: Callable[..., int]) -> None:
    lines(GOOD, b'{"translation": {', b'{"de": "\xff", "en": "x"}', GOOD)(tmp_path / "de.jsonl")
    assert command("{lang}.jsonl", "data.on_error=skip", "budget.text.test=2") == 0
    [folder] = (tmp_path / "store" / "artifacts").iterdir()
    assert json.loads((folder / "record.json").read_text())["result"]["counts"]["rejected"] == 2
    kept = [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["where"] for row in kept] == [f"{tmp_path}/de.jsonl:{number}" for number in (2, 3)]
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["source"], row["target"]) for row in rows] == [(german(0), english(0))] * 2
