"""Lines of brought files: how they end, byte-order marks, packings, and what is no text."""

import io
import json
from pathlib import Path

import pytest
import zstandard

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import lines as reading
from alma_pipeline.ml.data.readers.lines import lines, lines_of
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from helpers.text_files import text

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb\r\n\r\nc", [b"a", b"b", b"", b"c"]),
        (b"a\rb\r", [b"a", b"b"]),
        (b"a\rb\r\nc\nd", [b"a\rb", b"c", b"d"]),
        (b"one\rline\n", [b"one\rline"]),
        (BOM + b"a\n" + BOM + BOM + b"b\n", [b"a", b"b"]),
        (b"a\rb" + b"\r" + BOM + b"c", [b"a", b"b", b"c"]),
        (b"\n", [b""]),
        (b"", []),
    ],
    ids=["LF", "CRLF", "CR", "CR in a file with LF", "CR within a line", "joined files", "joined files with CR", "blank", "none"],
)
def test_lines_end_as_their_file_has_it(content: bytes, expected: list[bytes]) -> None:
    assert list(lines_of(io.BytesIO(content), "x")) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_line_may_be_longer_than_what_is_read_at_once(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HEAD", 8)
    expected = [b"a" * 5, b"b" * 30, b"", b"c" * 8, b"d"]
    assert list(lines_of(io.BytesIO(end.join([*expected, b""])), "x")) == expected


@pytest.mark.parametrize("content", ["eins\nzwei\n".encode("utf-16"), "eins\nzwei\n".encode("utf-16-le"), bytes(100)])
def test_what_is_not_utf_8_at_all_is_named(content: bytes) -> None:
    with pytest.raises(UserError, match=r"x is not UTF-8 but UTF-16 or no text at all; convert it"):
        list(lines_of(io.BytesIO(content), "x"))


def test_zstd_of_several_frames_and_of_the_longest_window(tmp_path: Path) -> None:
    """A window of 2 GiB, as `zstd --long=31` makes it; pyarrow alone reads 128 MiB."""
    row = b'{"de": "a", "en": "b"}\n'
    (tmp_path / "x.zst").write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, [row, row * 20_000, row])))
    assert list(lines(tmp_path / "x.zst")) == [row[:-1]] * 20_002
    window = zstandard.ZstdCompressionParameters(window_log=31)
    stream = zstandard.ZstdCompressor(compression_params=window).compressobj()  # of unknown size, so it keeps the window
    packed = stream.compress(row * 20_000) + stream.flush()
    (tmp_path / "y.zst").write_bytes(packed)
    assert zstandard.get_frame_parameters(packed).window_size == 2**31
    assert sum(1 for _ in lines(tmp_path / "y.zst")) == 20_000


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_cut_zstd_file_is_named(tmp_path: Path, cut: int) -> None:
    packed = zstandard.ZstdCompressor().compress(b"".join(b"%d\n" % n for n in range(100_000)))
    (tmp_path / "x.zst").write_bytes(packed[:-cut])
    with pytest.raises(UserError, match=r"x\.zst cannot be read to its end \(the last frame is incomplete\)"):
        list(lines(tmp_path / "x.zst"))


@pytest.mark.parametrize("name", ["de.jsonl", "de.json"])
def test_marks_and_control_characters_leave_the_text_and_are_counted(tmp_path: Path, name: str) -> None:
    rows = [{"de": "gr\x00ün\x1b[0m", "en": "green\ufeff"}, {"de": "\ttab", "en": "a\x0bb"}]
    content = b"".join(BOM + json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    (tmp_path / "x").write_bytes(content)
    stream = text({name: tmp_path / "x"}, tmp_path).pairs("de-en")
    assert [(row.source, row.target) for row in stream] == [("grün[0m", "green"), ("\ttab", "a\x0bb")]
    assert stream.changed == {"control": 2}


HALF = b'{"de": "gut \\ud83d", "en": "good"}\n{"de": "b", "en": "b"}\n'


def test_half_a_character_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(HALF)
    with pytest.raises(UserError, match=r"x:1: column 'de' has half of a character, \\ud83d, at position 5") as caught:
        list(text({"de.jsonl": tmp_path / "x"}, tmp_path).pairs("de-en"))
    str(caught.value).encode()
    stream = text({"de.jsonl": tmp_path / "x"}, tmp_path, on_error="skip").pairs("de-en")
    assert [row.source for row in stream] == ["b"] and stream.left_out["rejected"] == 1
    (tmp_path / "x").write_bytes(b'{"d\\ud83d": 1}\n')
    with pytest.raises(UserError, match=r"found the columns d\\ud83d") as caught:
        list(text({"de.jsonl": tmp_path / "x"}, tmp_path).pairs("de-en"))
    str(caught.value).encode()


def test_rejected_rows_survive_line_separators_and_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    Rejects("skip", path)("x:1", "broken", "a\u2028b\x85c")
    with open(path, "ab") as file:
        file.write(b'{"where": "x:2", "pro')
    again = Rejects("skip", path)
    again("x:1", "broken", "a")
    again("x:2", "broken", (b"\xff", b"b"))
    assert again.count == 2 == len(path.read_bytes().splitlines())
    assert json.loads(path.read_bytes().split(b"\n")[1])["row"] == r"['\\xff', 'b']"
