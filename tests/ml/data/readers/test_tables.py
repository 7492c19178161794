"""TSV, CSV and their relatives: separators, headers, quotes, and the errors that name them."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import tables
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.schema import Source
from helpers.text_files import ALL_CODES, LANGUAGES, text

ROWS = [("Guten Tag, Welt", "Good day; world"), ('Er sagt "ja"', "He says yes")]


def read(
    path: Path, name: str, content: str, on_error: str = "stop", columns: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    path.write_text(content, encoding="utf-8")
    stream = text({name: path}, path.parent, columns, on_error).pairs("de-en")
    return [(row.source, row.target) for row in stream]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("de.csv", 'de,en\n"Guten Tag, Welt",Good day; world\n"Er sagt ""ja""",He says yes\n'),
        ("de.csv", 'de;en\nGuten Tag, Welt;"Good day; world"\n"Er sagt ""ja""";He says yes\n'),
        ("de.csv", 'sep=;\nde;en\nGuten Tag, Welt;"Good day; world"\n"Er sagt ""ja""";He says yes\n'),
        ("de.csv", '\ufeff"sep=|"\r\nde|en\r\nGuten Tag, Welt|Good day; world\r\n"Er sagt ""ja"""|He says yes\r\n'),
        ("de.csv", 'de\ten\nGuten Tag, Welt\tGood day; world\n"Er sagt ""ja"""\tHe says yes\n'),
        ("de.tsv", 'DE\tEN\nGuten Tag, Welt\tGood day; world\nEr sagt "ja"\tHe says yes\n'),
        ("de.tsv", 'de-DE\ten_US\tnote\nGuten Tag, Welt\tGood day; world\t\nEr sagt "ja"\tHe says yes\t\n'),
        ("de-en.tsv", 'Source\tTarget\nGuten Tag, Welt\tGood day; world\nEr sagt "ja"\tHe says yes\n'),
        ("all.tsv", 'DE\tcs\tEN\nGuten Tag, Welt\tx\tGood day; world\nEr sagt "ja"\tx\tHe says yes\n'),
    ],
)
def test_a_table_that_can_mean_one_thing_is_read(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path / "x", name, content) == ROWS


def test_a_table_without_a_header_is_read_by_numbers_whatever_its_separator(tmp_path: Path) -> None:
    content = '0.9;"Guten Tag, Welt";"Good day; world"\n0.8;"Er sagt ""ja""";He says yes\n'
    assert read(tmp_path / "x", "de.csv", content, columns={"de": "2", "en": "3"}) == ROWS


def test_an_array_in_an_object_is_read(tmp_path: Path) -> None:
    for content in (
        '{"data": [{"de": "a", "en": "b"}]}\n',
        '{\n  "version": 1,\n  "data": [\n    {"de": "a", "en": "b"}\n  ]\n}\n',
    ):
        for name in ("de.json", "de.jsonl"):
            assert read(tmp_path / "x", name, content) == [("a", "b")]
    assert read(tmp_path / "x", "de.jsonl", '{"de": "a", "en": "b", "spans": [{"x": 1}]}\n\n{"de": "c", "en": "d"}\n') == [
        ("a", "b"),
        ("c", "d"),
    ]


def a_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"satz": "a", "sentence": "b"}]), path)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("name", ["de.tsv", "de.csv", "de.parquet"])
def test_a_table_without_known_columns_is_one_error_that_names_the_setting(tmp_path: Path, name: str, policy: str) -> None:
    separator = {"de.tsv": "\t", "de.csv": ","}.get(name)
    if separator:
        (tmp_path / "x").write_text(f"Das Haus.{separator}The house.\nZwei.{separator}Two.\n")
    else:
        a_parquet(tmp_path / "x")
    source = Source(reader="files", files={name: name}, on_error=policy)
    rejects = Rejects(policy, tmp_path / "rejected.jsonl")
    reader = TextReader(source, LANGUAGES, {name: str(tmp_path / "x")}, rejects, ALL_CODES, "data.parallel")
    with pytest.raises(UserError) as caught:
        list(reader.pairs("de-en"))
    assert "'data.parallel.columns={de: 1, en: 2}'" in str(caught.value) and "on_error" not in str(caught.value)
    assert "found the columns" in str(caught.value) and not rejects.count
    with pytest.raises(UserError, match=r"no column 'text' or 'content'.*'data\.parallel\.columns=\{text: 1\}'"):
        list(reader.documents("de"))


def swallowed(first: str, last: str) -> str:
    """A table of 400 rows with a quote that opens on line 202 and closes on line 300."""
    lines = ["de,en", *(f"Satz {n},Sentence {n}" for n in range(2, 402))]
    lines[201], lines[299] = first, last
    return "\n".join([*lines, ""])


QUOTES = [
    ('Satz "202,"Sentence 202', "Satz 300,Sentence 300"),
    ('Satz 202,"Sentence 202', 'Satz 300,Sentence 300"'),
    ('"Satz 202,Sentence 202', 'Satz 300",Sentence 300'),
    ('Satz 202,"Sentence 202', 'Satz 300,Sentence "300" x'),
    ('Satz 202,"Sentence 202', "Satz 300,Sentence 300"),
]


@pytest.mark.parametrize(("first", "last"), QUOTES)
def test_a_stray_quote_swallows_no_rows(tmp_path: Path, first: str, last: str) -> None:
    content = swallowed(first, last)
    with pytest.raises(
        UserError, match=r"x:202: invalid CSV from here on \(.*\); expected every quote to be closed.*on_error=skip"
    ):
        read(tmp_path / "x", "de.csv", content)
    found = read(tmp_path / "x", "de.csv", content, "skip")
    sources = [source.replace('"', "") for source, _ in found]
    assert sources == [f"Satz {n}" for n in range(2, 402) if n != 202], "that row alone is lost"


def test_a_stray_quote_over_three_lines_is_seen_too(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"x:2: invalid CSV from here on \(a cell runs to line 4, over lines that look like rows\)"
    ):
        read(tmp_path / "x", "de.csv", 'de,en\na,"b\nc,d\ne,f"\ng,h\n')


def test_two_columns_of_one_name_are_no_column_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'en' or 'eng_Latn'; found de, en \(2\), en \(3\)"):
        read(tmp_path / "x", "de.tsv", "de\ten\ten\na\tb\tc\n")


def test_blank_lines_before_a_header_are_passed_over(tmp_path: Path) -> None:
    for name, separator in (("de.tsv", "\t"), ("de.csv", ",")):
        assert read(tmp_path / "x", name, f"\n\nde{separator}en\na{separator}b\n") == [("a", "b")]


def test_cells_of_several_lines_are_counted(tmp_path: Path) -> None:
    rows = 'de,en\n"Guten Tag,\nWelt","Good day,\nworld"\n"a\nb, c\nd\ne","f"\ng,h\n'
    (tmp_path / "x").write_text(rows)
    stream = text({"de.csv": tmp_path / "x"}, tmp_path).pairs("de-en")
    assert [row.source for row in stream] == ["Guten Tag,\nWelt", "a\nb, c\nd\ne", "g"]
    assert stream.changed["line_breaks"] == 2


def test_a_quote_that_is_never_closed_costs_no_more_than_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_LINES", 50)
    found = read(tmp_path / "x", "de.csv", 'de,en\na,"b\n' + "c,d\n" * 500, "skip")
    assert found == [("c", "d")] * 500
    documents = "text\n" + '"open\n' + "line\n" * 500
    (tmp_path / "x").write_text(documents)
    stream = text({"de.csv": tmp_path / "x"}, tmp_path, on_error="skip").documents("de")
    assert len(list(stream)) == 500 and stream.left_out["rejected"] == 1


def test_doubled_quotes_in_tsv_stay_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('de\ten\n"Er sagt ""ja"""\tHe says yes\n"ja"\tyes\n5""\t5 inches\n')
    stream = text({"de.tsv": tmp_path / "x"}, tmp_path).pairs("de-en")
    assert [row.source for row in stream] == ['"Er sagt ""ja"""', '"ja"', '5""']
    assert stream.changed["doubled_quotes"] == 1
