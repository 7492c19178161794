"""What is read to be translated, and that line breaks inside a segment survive (B45)."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.cli import segments
from alma_pipeline.cli.segments import Segment
from alma_pipeline.errors import UserError


def test_plain_lines_are_segments(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Das Haus.\r\n\nEs ist\u2028klein.\n".encode())
    found = segments.read([str(file)], "de-en", as_json=False)
    assert [segment.text for segment in found] == ["Das Haus.", "", "Es ist\u2028klein."], "one line out for one line in"
    assert {segment.direction for segment in found} == {"de-en"}
    assert found[2].where == f"{file}, line 3"


def test_standard_input_is_read_where_no_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ä\nö".encode()), encoding="latin-1"))
    assert [segment.text for segment in segments.read([], "de-en", as_json=False)] == ["ä", "ö"], "UTF-8 whatever the locale"


def test_json_lines_bring_their_directions_and_keep_their_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows: list[dict[str, Any]] = [{"id": 7, "direction": "de-en", "source": "Haus"}, {"source": "house"}]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    found = segments.read([str(file)], "en-de", as_json=False)
    assert [(segment.direction, segment.text) for segment in found] == [("de-en", "Haus"), ("en-de", "house")]
    assert found[1].where == f"{file}, line 3"
    assert json.loads(segments.rendered(found[0], "house")) == rows[0] | {"translation": "house"}
    assert json.loads(segments.rendered(found[1], "Haus")) == rows[1] | {"direction": "en-de", "translation": "Haus"}


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("one", ["one"], "<one>"),
        ("a\nb", ["a", "b"], "<a>\n<b>"),
        ("a\r\n\r\nb\n", ["a", "b"], "<a>\r\n\r\n<b>\n"),
        ("\n  \na\rb", ["a", "b"], "\n  \n<a>\r<b>"),
        ("", [], ""),
        (" \n", [], " \n"),
    ],
)
def test_breaks_stay_where_they_stood(text: str, lines: list[str], expected: str) -> None:
    segment = Segment("de-en", text, "a, line 1")
    assert segment.lines() == lines
    assert segment.translated(iter([f"<{line}>" for line in lines])) == expected


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"source": "x"}\n{"source"', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'["x"]', "line 1: no text under 'source'; expected a JSON object, as in"),
        ("a.jsonl", b'{"source": 3}', "line 1: no text under 'source'"),
        ("a.jsonl", b'{"source": "x", "direction": 3}', "line 1: direction is 3"),
        ("a.txt", b"x\n\xff\n", "a.txt, line 2: not UTF-8"),
    ],
)
def test_bad_input_is_named_by_file_and_line(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(UserError, match=said):
        segments.read([str(file)], "de-en", as_json=False)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read: No such file"):
        segments.read([str(tmp_path / "none.txt")], "de-en", as_json=False)
