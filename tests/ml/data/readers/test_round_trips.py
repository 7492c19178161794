"""Rows with odd characters, empty sides and long lines, written by other libraries in every format and packing, and read back."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.text_files import text

Rows = list[tuple[str, str]]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
NEVER_TEXT = {*map(chr, [*range(9), *range(14, 28), 127]), "\ufeff"}
ODD = "\x01\x1f\x85\u2028\u2029\ufeff\u200d\u0301\u0e33\U0001f468\"'`,;\t\\&<>{}[]|"
WORDS = st.one_of(st.text(max_size=20), st.text(alphabet=ODD + "aä दि", max_size=12))
TEXTS = st.one_of(WORDS, st.builds(lambda word, times: word * times, WORDS, st.integers(100, 3000)))


def without(*characters: str) -> Callable[[str], str]:
    """The text without these, which a format cannot hold."""
    return lambda found: "".join(letter for letter in found if letter not in characters)


def as_csv(found: str) -> str:
    """A cell of several lines has no comma here: lines that look like rows are an error. CRLF within it is LF."""
    found = found.replace("\0", "").replace("\r\n", "\n")
    return found.replace(",", "") if "\n" in found else found


def in_xml(found: str) -> str:
    return "".join(letter for letter in found if letter in "\t\n" or (letter >= " " and letter not in "\ufffe\uffff"))


def write_json_lines(rows: Rows, end: str) -> bytes:
    return "".join(json.dumps({"de": one, "en": other}, ensure_ascii=len(one) % 2 == 0) + end for one, other in rows).encode()


def write_array(rows: Rows, end: str) -> bytes:
    return json.dumps([{"translation": {"de": one, "en": other}} for one, other in rows], indent=len(rows) % 3 or None).encode()


def write_tsv(rows: Rows, end: str) -> bytes:
    return "".join("\t".join(row) + end for row in [("de", "en"), *rows]).encode()


def write_csv(rows: Rows, end: str) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL if len(rows) % 2 else csv.QUOTE_MINIMAL).writerows([("de", "en"), *rows])
    return file.getvalue().encode()


def write_parquet(rows: Rows, end: str) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"de": [row[0] for row in rows], "en": [row[1] for row in rows]}), file)
    return file.getvalue()


def write_tmx(rows: Rows, end: str) -> bytes:
    root = ElementTree.Element("tmx", version="1.4")
    body = ElementTree.SubElement(root, "body")
    for row in rows:
        unit = ElementTree.SubElement(body, "tu")
        for code, segment in zip(("de-DE", "en"), row, strict=True):
            variant = ElementTree.SubElement(unit, "tuv", {"xml:lang": code})
            ElementTree.SubElement(variant, "seg").text = segment
    written: bytes = ElementTree.tostring(root, encoding="utf-16" if len(rows) % 2 else "utf-8")
    return written


FORMATS: dict[str, tuple[Callable[[Rows, str], bytes], Callable[[str], str]]] = {
    "de.jsonl": (write_json_lines, str),
    "de.json": (write_array, str),
    "de.tsv": (write_tsv, without("\0", "\n", "\r", "\t")),
    "de.csv": (write_csv, as_csv),
    "de.parquet": (write_parquet, str),
    "all.tmx": (write_tmx, in_xml),
}


def expected(rows: Rows) -> list[tuple[str, str]]:
    one, other = ([without(*NEVER_TEXT)(side) for side in sides] for sides in zip(*rows, strict=True))
    return list(zip(one, other, strict=True))


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_what_is_written_is_read(name: str, data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    write, possible = FORMATS[name]
    sides = TEXTS.map(possible)
    rows = data.draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    packing = data.draw(st.sampled_from([""] if name.endswith("parquet") else list(PACKERS)))
    mark = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) if name[-4:] in (".tsv", ".csv", "json", "onl") else b""
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"file{packing}"
    path.write_bytes(PACKERS[packing](mark + write(rows, end)))
    reader = text({f"{name}{packing}": path}, folder)
    assert [(row.source, row.target) for row in reader.pairs("de-en")] == expected(rows)
    assert [row.source for row in reader.pairs("en-de", skip=1)] == [other for _, other in expected(rows)][1:]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_plain_texts_are_read_line_by_line(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    sides = TEXTS.map(without("\0", "\n", "\r"))
    rows = data.draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
    folder, files = tmp_path_factory.getbasetemp(), dict[str, Path]()
    for place, code in enumerate(("de", "en")):
        end, packing = data.draw(st.sampled_from(["\n", "\r\n", "\r"])), data.draw(st.sampled_from(list(PACKERS)))
        path = files[f"de-en/{code}.txt{packing}"] = folder / f"plain.{code}{packing}"
        path.write_bytes(PACKERS[packing]("".join(row[place] + end for row in rows).encode()))
    assert [(row.source, row.target) for row in text(files, folder).pairs("de-en")] == expected(rows)
    name = next(name for name in files if "/de." in name)
    documents = text({name.replace("de-en/", ""): files[name]}, folder).documents("de")
    assert [row.text for row in documents] == [one for one, _ in expected(rows)]
