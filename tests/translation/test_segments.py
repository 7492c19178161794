"""What is read to be translated, and that line breaks inside a segment survive (B45)."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import binary, characters, integers, lists, sampled_from, text

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.raw_rows import CONTROL
from alma_pipeline.translation import segments
from alma_pipeline.translation.segments import Segment


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
    none: dict[str, Any] = {"translation_flags": []}
    assert json.loads(segments.rendered(found[0], "house")) == rows[0] | {"translation": "house"} | none
    assert json.loads(segments.rendered(found[1], "Haus")) == rows[1] | {"direction": "en-de", "translation": "Haus"} | none


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n\nb\n\n", ["a", "", "b", ""]),
        (b"\xef\xbb\xbfDas Haus.\nb", ["Das Haus.", "b"]),
        (b"\xef\xbb\xbf", []),
        (b"a\n\xef\xbb\xbfb\nc\xef\xbb\xbfd", ["a", "b", "cd"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\rb", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"a\x00b\x07\nc\td\n\x00\n", ["ab", "c\td", ""]),
    ],
)
def test_what_a_line_is(tmp_path: Path, data: bytes, texts: list[str]) -> None:
    """A byte-order mark and control characters are no text; a file without LF has CR as its line end."""
    (tmp_path / "a.txt").write_bytes(data)
    assert [segment.text for segment in segments.read([str(tmp_path / "a.txt")], "de-en", as_json=False)] == texts


JOINED = b'\xef\xbb\xbf{"source": "d"}\n\xef\xbb\xbf{"source": "e"}\n'


def test_each_of_several_files_has_its_own_mark_and_ends(tmp_path: Path) -> None:
    for name, data in (("a.txt", b"\xef\xbb\xbfa\rb"), ("b.txt", b"\xef\xbb\xbfc"), ("c.JSON", JOINED)):
        (tmp_path / name).write_bytes(data)
    found = segments.read([str(tmp_path / name) for name in ("a.txt", "b.txt", "c.JSON")], "de-en", as_json=False)
    assert [segment.text for segment in found] == ["a", "b", "c", "d", "e"]


@settings(max_examples=200)
@given(lists(text(characters(exclude_categories=["Cs"], exclude_characters="\n\r"))), sampled_from(["\n", "\r\n", "\r"]))
def test_each_line_in_is_one_line_out_in_order(lines: list[str], end: str) -> None:
    """Whatever is in it, and whatever the translation is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(b"\xef\xbb\xbf" + "".join(line + end for line in lines).encode())
        found = segments.read([str(path)], "de-en", as_json=False)
    assert len(found) == len(lines)
    for line, segment in zip(lines, found, strict=True):
        written = segments.rendered(segment, segment.translated(iter(["T"] * len(segment.lines()))))
        assert written == ("T" if CONTROL.sub("", line).strip() else segment.text)
        assert "\n" not in written


@settings(max_examples=1000, deadline=None)
@given(binary(max_size=60), integers(0, 200), sampled_from(["a.txt", "a.jsonl"]))
def test_a_damaged_file_is_read_or_refused_by_name(damage: bytes, place: int, name: str) -> None:
    """Cut, and with any bytes at its end: never another error, and what is read can be written as UTF-8."""
    whole = b'{"source": "Das Haus ist klein.", "id": 1}\n{"source": "\\ud83d\\ude00 \xc3\xa4", "direction": "de-en"}\r\n'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(whole[:place] + damage)
        try:
            found = segments.read([str(path)], "de-en", as_json=False)
        except UserError as error:
            assert str(path) in str(error)
            return
    for segment in found:
        assert b"\n" not in segments.rendered(segment, segment.text).encode()


def test_places_are_named_by_file_and_line() -> None:
    found = [Segment("de-en", "", file, number) for file, number in (("a", 3), ("a", 3), ("a", 7), ("a", 1900), ("b", 1))]
    assert segments.places(found) == "a, lines 3, 7 and 1,900; b, line 1"
    many = [Segment("de-en", "", "a", number) for number in range(1, 31)]
    assert segments.places(many) == "a, lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more"


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
    segment = Segment("de-en", text, "a", 1)
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
        ("a.txt", "Haus".encode("utf-16"), "a.txt: UTF-16, expected UTF-8; convert it"),
        ("a.jsonl", b'{"source": "x"}\n{"source": "\\ud83d"}', r"line 2: half a character \(.ud83d without its other half\)"),
        ("a.jsonl", b'{"source": "x", "id": ["\\udc00"]}', r"line 1: half a character \(.udc00 without its other half\)"),
        ("a.jsonl", b'{"source": ' + b"[" * 100_000, "line 1: not valid JSON"),
        ("a.json", b'[\n{"source": "x"}\n]', "line 1: not valid JSON"),
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
