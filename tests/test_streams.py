"""Output in any locale, and where standard output or error is closed."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alma_pipeline import streams
from alma_pipeline.cli import main
from alma_pipeline.console import LiteralConsole
from alma_pipeline.report.content import Report
from alma_pipeline.store.store import Store

WORDS = ["data.languages=[de,zh]", "tracking=none"]
CLOSED = '"$0" -c "$1" {} && cat "$2"'
PROGRAM = """
import os
from alma_pipeline.streams import prepare_streams
prepare_streams()
print("no such stream")
opened = open(os.environ["FILE"], "w")
opened.write("%d" % opened.fileno())
"""


def locale_of(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    """Standard output in this encoding; gives what is written."""
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding, write_through=True))
    return data


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"de->en ^ v ~ 62.9 - M\\xfcller \\u732b \\udce4 *\n"),
        ("latin-1", b"de->en ^ v ~ 62.9 \xb7 M\xfcller \\u732b \\udce4 *\n"),
        ("utf-8", "de→en ▲ ▼ ≈ 62.9 · Müller 猫 \\udce4 ⠋\n".encode()),
    ],
)
def test_what_the_locale_lacks_is_degraded(monkeypatch: pytest.MonkeyPatch, encoding: str, expected: bytes) -> None:
    data = locale_of(monkeypatch, encoding)
    streams.prepare_streams()
    LiteralConsole().print_line("de→en ▲ ▼ ≈ 62.9 · Müller 猫 \udce4 ⠋")
    assert data.getvalue() == expected


@pytest.mark.parametrize(
    "words",
    [["plan", *WORDS], ["report", *WORDS], ["compare", "parallel", "cpo"], ["show", "cpo"], ["doctor"], ["gc", "--keep", "cpo"]],
    ids=lambda words: words[0],
)
def test_every_verb_prints_in_ascii(finished: Store, report: Report, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr("alma_pipeline.cli.report.build_report", lambda *words: report)
    data = locale_of(monkeypatch, "ascii")
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(finished.root))
    monkeypatch.setattr(sys, "argv", ["alma-pipeline", *words])
    assert main.main() in (0, 1), "1: doctor finds something to mend"
    assert data.getvalue().decode("ascii")


@pytest.mark.parametrize("words", [["plan", "--json"], ["report", "--format", "markdown"]], ids=lambda words: words[-1])
def test_what_programs_read_is_utf8(finished: Store, report: Report, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr("alma_pipeline.cli.report.build_report", lambda *words: report)
    data = locale_of(monkeypatch, "ascii")
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(finished.root))
    monkeypatch.setattr(sys, "argv", ["alma-pipeline", *words, *WORDS])
    assert main.main() == 0
    text = data.getvalue().decode("utf-8")
    assert "→" in text if words[-1] == "markdown" else json.loads(text)["steps"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_takes_no_file_into_it(tmp_path: Path, closed: str) -> None:
    """Without a stream in its place, the next file opened has its number, and what is printed goes into that file."""
    file = tmp_path / "file"
    command = ["sh", "-c", CLOSED.format(closed), sys.executable, PROGRAM, str(file)]
    done = subprocess.run(command, env=os.environ | {"FILE": str(file)}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(file.read_text()) and int(file.read_text()) > 2
    assert done.stdout.count("no such stream") == (">&-" not in closed.replace("2>&-", ""))


def test_an_output_that_is_open_for_reading_alone_counts_as_closed(tmp_path: Path) -> None:
    (tmp_path / "script").touch()
    program = "from alma_pipeline.streams import prepare_streams; prepare_streams(); print(1)"
    command = ["sh", "-c", f'exec "$0" -c "$1" 1< {tmp_path}/script', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "alma_pipeline", "gc"]
        store = os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path)}
        done = subprocess.run(command, env=store, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("alma-pipeline: no space left on the disk of the output (the store's has ")
    assert (
        done.stderr.endswith("; finished work is kept, and the same command resumes from there\n")
        and done.stderr.count("\n") == 1
    )
