"""TMX: text without the code that its markup encloses, the variant that counts, and units that are broken."""

from pathlib import Path

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import tmx
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.schema import Language, Source
from helpers.text_files import LANGUAGES, text

CHINESE = LANGUAGES | {
    "zh": Language(name="Chinese", locale="zh_Hans", nllb="zho_Hans"),
    "no": Language(name="Norwegian", locale="nb", nllb="nob_Latn"),
}


def unit(*variants: tuple[str, str]) -> str:
    return "<tu>" + "".join(f'<tuv xml:lang="{tag}"><seg>{segment}</seg></tuv>' for tag, segment in variants) + "</tu>\n"


def write(path: Path, *units: str, head: str = "<tmx version='1.4'>") -> Path:
    path.write_text(f'<?xml version="1.0"?>\n{head}<header/><body>\n{"".join(units)}</body></tmx>\n', encoding="utf-8")
    return path


def pairs(reader: TextReader, direction: str = "de-en") -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in reader.pairs(direction)]


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        ('Klick <bpt i="1">&lt;a href="x"&gt;</bpt>hier<ept i="1">&lt;/a&gt;</ept>', "Klick hier"),
        ("<bpt>{\\f1 </bpt>Laden.<ept>}</ept>", "Laden."),
        ('Ein <ph>&lt;img alt="<sub>Ein Bild</sub>"&gt;</ph>Bild', "Ein Bild"),
        ("<it pos='begin'>&lt;b&gt;</it>Fett <ut>{x}</ut>und <hi>hell</hi>", "Fett und hell"),
        ("A &amp; B <![CDATA[<tu>]]> <!-- </tu> -->C", "A & B <tu> C"),
    ],
)
def test_code_inside_markup_is_no_text(tmp_path: Path, segment: str, expected: str) -> None:
    path = write(tmp_path / "x", unit(("de", segment), ("en", "text")), unit(("de", "zwei"), ("en", "two")))
    assert pairs(text({"all.tmx": path}, tmp_path)) == [(expected, "text"), ("zwei", "two")]


def test_of_several_variants_the_one_asked_for_counts_else_the_first(tmp_path: Path) -> None:
    units = (
        unit(("de", "Farbe"), ("de", "Farben"), ("en-US", "color"), ("en-GB", "colour")),
        unit(("de-AT", "Paradeiser"), ("de-DE", "Tomate"), ("EN_gb", "tomato")),
        unit(("de", "eins"), ("en", "one")),
    )
    path = write(tmp_path / "x", *units)
    stream = text({"all.tmx": path}, tmp_path).pairs("de-en")
    assert [(row.source, row.target) for row in stream] == [("Farbe", "color"), ("Paradeiser", "tomato"), ("eins", "one")]
    assert stream.changed["variants"] == 2
    british = text({"all.tmx": path}, tmp_path, {"en": "en-GB", "de": "de-DE"})
    assert pairs(british) == [("Tomate", "tomato")], "a unit without one of them is no pair"
    assert pairs(text({"all.tmx": path}, tmp_path, {"en": "en-GB"})) == [("Farbe", "colour"), ("Paradeiser", "tomato")]


def test_a_variant_in_the_script_of_the_language_counts_before_others(tmp_path: Path) -> None:
    units = (
        unit(("en", "dragon"), ("zh-Hant", "龍"), ("zh-Hans", "龙")),
        unit(("en", "country"), ("zh-TW", "國"), ("zh-CN", "国")),
        unit(("en", "horse"), ("zh-HK", "馬")),
    )
    path = write(tmp_path / "x", *units)
    source = Source(reader="files", files={"all.tmx": "all.tmx"})
    reader = TextReader(source, CHINESE, {"all.tmx": str(path)}, lambda *_: None)
    assert [target for _, target in pairs(reader, "en-zh")] == ["龙", "国", "馬"]
    write(tmp_path / "x", unit(("en", "house"), ("nb-NO", "hus")))
    assert pairs(reader, "no-en") == [("hus", "house")]


def test_a_broken_unit_costs_itself_alone(tmp_path: Path) -> None:
    good = [unit(("de", f"{n}"), ("en", f"{n}")) for n in range(4)]
    broken = [
        unit(("de", "R&D"), ("en", "x")),
        unit(("de", "\x01"), ("en", "x")),
        unit(("de", "M<b>"), ("en", "x")),
        unit(("de", "x"), ("en", "x")).replace("</tu>", ""),
        unit(("de", "<b>" * 5000 + "</b>" * 5000), ("en", "x")),
    ]
    path = write(tmp_path / "x", *good[:2], *broken, *good[2:])
    with pytest.raises(UserError, match=r"x:5, unit 3: invalid XML \(not well-formed \(invalid token\)\).*data\.on_error=skip"):
        pairs(text({"all.tmx": path}, tmp_path))
    stream = text({"all.tmx": path}, tmp_path, on_error="skip").pairs("de-en")
    assert [row.source for row in stream] == ["0", "1", "2", "3"]
    assert stream.left_out["rejected"] == 5 and stream.position == 9


def test_bytes_of_another_encoding_cost_one_unit(tmp_path: Path) -> None:
    path = write(tmp_path / "x", unit(("de", "grün"), ("en", "green")), unit(("de", "zwei"), ("en", "two")))
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xfc"))
    with pytest.raises(UserError, match=r"x:3, unit 1: not in the file's encoding: byte 0xfc"):
        pairs(text({"all.tmx": path}, tmp_path))
    assert pairs(text({"all.tmx": path}, tmp_path, on_error="skip")) == [("zwei", "two")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"])
def test_the_encoding_is_the_declared_one(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "x", unit(("de", "grün"), ("en", "green")))
    declared = path.read_text("utf-8").replace('"1.0"', f'"1.0" encoding="{encoding.replace("-sig", "")}"')
    path.write_text(declared, encoding)
    assert pairs(text({"all.tmx": path}, tmp_path)) == [("grün", "green")]


def test_prefixes_of_the_root_may_be_used_in_units(tmp_path: Path) -> None:
    one = unit(("de", "eins"), ("en", "one")).replace("<tu>", '<tu x:id="3"><x:note/>')
    head = '<tmx xmlns="http://www.lisa.org/tmx14" xmlns:x="urn:x" version="1.4"><!-- a comment -->'
    assert pairs(text({"all.tmx": write(tmp_path / "x", one, head=head)}, tmp_path)) == [("eins", "one")]


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_units_do_not_depend_on_how_the_file_is_read(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [unit(("de", f"grün <!-- <tu> --> {n}"), ("en", f"green {n}")) for n in range(20)]
    path = write(tmp_path / "x", *units)
    monkeypatch.setattr(tmx, "PIECE", piece)
    assert pairs(text({"all.tmx": path}, tmp_path)) == [(f"grün  {n}", f"green {n}") for n in range(20)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<tmx><body><tu><tuv>", r"x:1: invalid XML from here on: no </tmx> follows; expected a complete TMX file"),
        ("plain text", r"x:1: invalid XML from here on"),
        ("<tmx><body/></tmx>", r"x has no rows"),
        ('<?xml version="1.0" encoding="klingon"?><tmx/>', r"x: encoding klingon is unknown"),
    ],
)
def test_what_is_no_whole_tmx_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x").write_text(content)
    for policy in ("stop", "skip"):
        with pytest.raises(UserError, match=message):
            pairs(text({"all.tmx": tmp_path / "x"}, tmp_path, on_error=policy))


def test_a_unit_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tmx, "LONGEST_UNIT", 1000)
    monkeypatch.setattr(tmx, "PIECE", 100)
    path = write(tmp_path / "x", "<tu><tuv>" + "x" * 5000, unit(("de", "eins"), ("en", "one")))
    stream = text({"all.tmx": path}, tmp_path, on_error="skip").pairs("de-en")
    assert [row.source for row in stream] == ["eins"] and stream.left_out["rejected"] == 1


def test_files_of_this_format_have_a_rule_of_their_own() -> None:
    assert Source(files={"all.tmx.gz": "1"}).rules() == {"tmx": 2}
    assert Source(files={"de.tsv": "1"}).rules() == {}
