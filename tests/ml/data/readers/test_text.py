"""Every schema and every file format, read from a small file of exactly that kind; every bad input named with file and line."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import hub
from alma_pipeline.ml.data.readers.columns import Triple
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.schema import Source
from helpers.text_files import LANGUAGES, alma_r, english, german, json_lines, nested, text

PAIRS = [(german(n), english(n)) for n in range(3)]


def sides(found: TextReader, direction: str = "de-en") -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in found.pairs(direction)]


def swapped(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(target, source) for source, target in pairs]


def write_tsv(path: Path) -> None:
    path.write_text("de\ten\n" + "".join(f"{one}\t{other}\n" for one, other in PAIRS), encoding="utf-8")


def write_csv(path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("de", "en"), *PAIRS])


def write_array(path: Path) -> None:
    path.write_text(json.dumps(nested(3)), encoding="utf-8")


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested(3)), path)


def write_tmx(path: Path) -> None:
    units = "".join(
        f'<tu><tuv xml:lang="de-DE"><seg>{one.replace("klein", "<hi>kl</hi>ein")}</seg></tuv>'
        f'<tuv xml:lang="EN"><seg>{other}</seg></tuv></tu>'
        for one, other in PAIRS
    )
    path.write_text(f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{units}</body></tmx>', encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("de.jsonl", lambda path: json_lines(path, nested(3))),
        ("de.json", lambda path: json_lines(path, nested(3))),
        ("de.json", write_array),
        ("de.tsv", write_tsv),
        ("de.csv", write_csv),
        ("de.parquet", write_parquet),
        ("all.tmx", write_tmx),
    ],
    ids=["jsonl", "alma-train", "alma-valid", "tsv", "csv", "parquet", "tmx"],
)
def test_a_format_in_both_directions(tmp_path: Path, name: str, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "file")
    found = text({name: tmp_path / "file"}, tmp_path)
    assert sides(found) == PAIRS
    assert sides(found, "en-de") == swapped(PAIRS)
    assert [row.id for row in found.pairs("de-en", skip=2)] == ["de-en:3"], "goes on at a row, under the same name"


@pytest.mark.parametrize(
    ("suffix", "opener"),
    [(".gz", gzip.open), (".GZ", gzip.open), (".bz2", bz2.open), (".xz", lzma.open), (".zst", None)],
    ids=lambda x: str(x)[:4],
)
def test_packed_files(tmp_path: Path, suffix: str, opener: Any) -> None:
    path = tmp_path / f"file.jsonl{suffix}"
    content = "".join(json.dumps(row) + "\n" for row in nested(3)).encode()
    if opener:
        with opener(path, "wb") as file:
            file.write(content)
    else:
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
    suffix = suffix.lower()  # the plan's names are in lower case
    assert sides(text({f"de.jsonl{suffix}": path}, tmp_path)) == PAIRS
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    with pytest.raises(UserError, match=r"file\.jsonl.*cannot be read to its end.*truncated"):
        sides(text({f"de.jsonl{suffix}": path}, tmp_path))


def test_a_pair_of_texts_keeps_lines_apart_by_newlines_alone(tmp_path: Path) -> None:
    """U+2028 and other breaks that Python's splitlines knows do not end a line, or every later pair would be shifted (B45)."""
    (tmp_path / "a.de").write_bytes("eins\u2028zwei\r\ndrei\r\n".encode())
    (tmp_path / "a.en").write_bytes(b"one two\nthree\n")
    files = {"de-en/de.txt": tmp_path / "a.de", "de-en/en.txt": tmp_path / "a.en"}
    assert sides(text(files, tmp_path)) == [("eins\u2028zwei", "one two"), ("drei", "three")]
    assert sides(text(files, tmp_path), "en-de")[1] == ("three", "drei")


SHAPES: dict[str, tuple[str, list[Any], dict[str, str]]] = {
    "X-ALMA-Parallel-Data": ("de.jsonl", nested(3), {}),
    "WMT22-Test": ("de-en.jsonl", [{"de-en": {"de": one, "en": other}} for one, other in PAIRS], {}),
    "FLORES-200": ("all.jsonl", [{"en-de": {"de": one, "en": other}} for one, other in PAIRS], {}),
    "NLLB": ("de.jsonl", [{"translation": {"deu_Latn": one, "eng_Latn": other}, "laser_score": 1.2} for one, other in PAIRS], {}),
    "flat": ("de.jsonl", [{"de": one, "en": other} for one, other in PAIRS], {}),
    "source-target": ("de-en.jsonl", [{"source": one, "target": other} for one, other in PAIRS], {}),
    "with directions": (
        "all.jsonl",
        [
            {"source": "x", "target": "y", "direction": "cs-en"},
            *({"source": a, "target": b, "direction": "de-en"} for a, b in PAIRS),
        ],
        {},
    ),
    "other names": ("de.jsonl", [{"src": one, "tgt": other} for one, other in PAIRS], {"source": "src", "target": "tgt"}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_pairs(tmp_path: Path, name: str) -> None:
    file, found, columns = SHAPES[name]
    assert sides(text({file: json_lines(tmp_path / "x", found)}, tmp_path, columns)) == PAIRS


@pytest.mark.parametrize("name", ["de.jsonl", "de-en.jsonl"])
def test_source_and_target_in_the_direction_out_of_english(tmp_path: Path, name: str) -> None:
    """In a language's own file `source` is that language; in a direction's it is the direction's first."""
    found = [{"source": one, "target": other} for one, other in PAIRS]
    assert sides(text({name: json_lines(tmp_path / "x", found)}, tmp_path), "en-de") == swapped(PAIRS)


def test_a_table_without_header_by_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("".join(f"0.9\t{other}\t{one}\n" for one, other in PAIRS), encoding="utf-8")
    assert sides(text({"de.tsv": path}, tmp_path, {"source": "3", "target": "2"})) == PAIRS


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("de.jsonl", [{"id": 0, "text": "Ein Text.", "meta": {}}, {"id": 1, "text": "Zwei\nZeilen."}]),
        ("de.jsonl", [{"content": "Ein Text.", "metadata": {}}, {"content": "Zwei\nZeilen."}]),
    ],
    ids=["OSCAR by datasets", "OSCAR's own files"],
)
def test_documents(tmp_path: Path, file: str, found: list[Any]) -> None:
    rows = list(text({file: json_lines(tmp_path / "x", found)}, tmp_path).documents("de"))
    assert [(row.id, row.language, row.text) for row in rows] == [("de:1", "de", "Ein Text."), ("de:2", "de", "Zwei\nZeilen.")]


@pytest.mark.parametrize(
    ("row", "scorer", "expected"),
    [
        (alma_r(1.0, alma=0.9), "kiwi_xcomet", Triple("Ref en", "Gpt", "Alma")),
        (alma_r(-1.0, gpt4=0.9), "kiwi_xcomet", Triple("Ref en", "Alma", "Gpt")),
        (alma_r(0.0, ref=0.9, gpt4=0.7, alma=0.1), "kiwi_xcomet", Triple("Ref en", "Ref", "Alma")),
        (alma_r(0.0, ref=0.2, gpt4=0.7, alma=0.3), "kiwi", Triple("Ref en", "Gpt", "Ref")),
        (alma_r(0.0, ref=0.2, gpt4=0.7, alma=0.3), "xcomet", Triple("Ref en", "Alma", "Ref")),
        (alma_r(1.0, required="de-en"), "kiwi", None),
        (alma_r(1.0, required="en-de"), "kiwi", Triple("Ref en", "Gpt", "Alma")),
        (alma_r(0.0), "kiwi", Triple("Ref en", "Ref", "Ref")),
    ],
    ids=[
        "delta above 0",
        "delta below 0",
        "by score",
        "reference worst",
        "another scorer",
        "not required",
        "required",
        "all equal, which the stage counts",
    ],
)
def test_alma_r_preferences(tmp_path: Path, row: Any, scorer: str, expected: Triple | None) -> None:
    found = list(text({"de.jsonl": json_lines(tmp_path / "x", [row])}, tmp_path).triples("en-de", scorer))
    assert [triple for _, triple in found] == ([expected] if expected else [])


def test_x_alma_preferences_are_flat_and_spelled_reject(tmp_path: Path) -> None:
    found = [{"source": "Hi", "chosen": "Hallo", "reject": "Halo", "directions": direction} for direction in ("en-mk", "en-de")]
    files = {"all.jsonl": json_lines(tmp_path / "x", found)}
    assert list(text(files, tmp_path).triples("en-de", "")) == [(2, Triple("Hi", "Hallo", "Halo"))]


BAD: dict[str, tuple[str, bytes, str]] = {
    "broken JSON": ("de.jsonl", b'{"de": "a", "en": "b"}\n{"de": "a", "en"\n', r"x:2: broken JSON"),
    "no object": ("de.jsonl", b'{"de": "a", "en": "b"}\n[1]\n', r"x:2: expected an object, found \[1\]"),
    "broken array": ("de.json", b'[{"de": "a", "en": "b"},\n{"de": ]', r"x:2: broken JSON"),
    "wrong column": ("de.jsonl", b'{"deutsch": "a", "en": "b"}\n', r"x:1: no text in de and en: found the columns deutsch, en"),
    "no text": ("de.jsonl", b'{"de": 3, "en": "b"}\n', r"x:1: column 'de' is 3, expected text"),
    "not UTF-8": ("de.tsv", b"de\ten\na\tb\nM\xfcller\tMiller\n", r"x:3: not UTF-8: byte 0xfc at position 2"),
    "not UTF-8 in CSV": ("de.csv", b"de,en\na,b\nM\xfcller,Miller\n", r"x:3: not UTF-8: byte 0xfc"),
    "columns too few": ("de.tsv", b"de\ten\na\n", r"x:2: 1 columns, expected 2 \(de, en\)"),
    "open quote": ("de.csv", b'de,en\n"a,b\n', r"x:2: invalid CSV from here on"),
    "empty file": ("de.jsonl", b"", r"x is empty; expected at least one row"),
    "header alone": ("de.tsv", b"de\ten\n", r"x has no rows"),
    "not Parquet": ("de.parquet", b"PAR1 and then nothing", r"x cannot be read to its end.*truncated"),
    "not XML": ("all.tmx", b"<tmx><body>\n<tu></body></tmx>", r"x:2, unit 1: invalid XML \(mismatched tag\)"),
    "pointer": ("de.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"x is a Git LFS pointer"),
    "direction unclear": ("all.jsonl", b'{"source": "a", "target": "b"}\n', r"x:1: no column 'direction'"),
    "direction odd": ("all.jsonl", b'{"source": "a", "target": "b", "direction": "german"}\n', r"x:1: direction 'german'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_file_and_line(tmp_path: Path, name: str) -> None:
    file, content, message = BAD[name]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=message):
        sides(text({file: tmp_path / "x"}, tmp_path))


def test_unequal_line_counts(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("eins\nzwei\n")
    (tmp_path / "a.en").write_text("one\n")
    with pytest.raises(UserError, match=r"a\.en:2: .*a\.de has 2 lines and .*a\.en has 1 lines"):
        sides(text({"de-en/de.txt": tmp_path / "a.de", "de-en/en.txt": tmp_path / "a.en"}, tmp_path))


def test_a_direction_that_no_file_holds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file with text of cs-en; found de\.jsonl"):
        sides(text({"de.jsonl": json_lines(tmp_path / "x", nested(1))}, tmp_path), "cs-en")


def test_skipped_rows_are_counted_once_and_kept_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"de": "a", "en": "b"}\n{"de": "\xff"}\nnonsense\n{"de": "c", "en": "d"}\n')
    found = text({"de.jsonl": tmp_path / "x"}, tmp_path, on_error="skip")
    assert sides(found) == [("a", "b"), ("c", "d")] and sides(found, "en-de") == [("b", "a"), ("d", "c")]
    assert isinstance(found.rejects, Rejects) and found.rejects.count == 2
    kept = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["where"].rpartition(":")[2] for row in kept] == ["2", "3"]
    assert kept[1]["row"] == "nonsense" and "broken JSON" in kept[1]["problem"]


def test_a_hub_set_streams_by_its_configurations_and_goes_on_from_a_row(tmp_path: Path) -> None:
    """A repository of the published layout in a local folder, through `datasets`; its README names the configurations."""
    repo = tmp_path / "ALMA-Human-Parallel"
    for split, start in (("train", 0), ("validation", 100)):
        path = repo / "de-en" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested(3, start)), path)
    (repo / "README.md").write_text(
        "---\nconfigs:\n- config_name: de-en\n  data_files:\n  - {split: train, path: de-en/train-*}\n"
        "  - {split: validation, path: de-en/validation-*}\n---\n"
    )
    source = Source(reader="hub", repo=str(repo), config="{lang}-en")
    found = TextReader(source, LANGUAGES, {}, Rejects("stop", tmp_path / "rejected.jsonl"))
    assert sides(found) == PAIRS
    assert [row.id for row in found.pairs("en-de", skip=1)] == ["en-de:2", "en-de:3"]
    with pytest.raises(UserError, match=r"cannot read the data set .*\(cs-en\), split train.*HF_TOKEN.*data\.root"):
        sides(found, "cs-en")


def test_names_of_hub_configurations() -> None:
    def name(repo: str, part: str) -> str | None:
        return hub.config_name(Source(reader="hub", repo=repo), part, LANGUAGES)

    assert name("haoranxu/ALMA-R-Preference", "en-de") == "de-en"
    assert name("haoranxu/FLORES-200", "en-de") == "en-de"
    assert name("allenai/nllb", "de-en") == "deu_Latn-eng_Latn"
    assert name("haoranxu/X-ALMA-Preference", "en-de") is None
    own = Source(reader="hub", repo="Helsinki-NLP/opus-100", config="{pair}")
    assert hub.config_name(own, "en-cs", LANGUAGES) == "cs-en"
