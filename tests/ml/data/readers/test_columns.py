"""Rows that say their direction: in the language table or not."""

import json
from pathlib import Path

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from helpers.text_files import alma_r, json_lines, text


def pairs(found: TextReader, direction: str) -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in found.pairs(direction)]


UNKNOWN_LANGUAGE = r"x:1: direction '{0}': '{1}' is not in the language table; known: cs, de, en, mk\. A new language is a line"


@pytest.mark.parametrize(("said", "code"), [("xx-en", "xx"), ("en-deu_Latn", "deu_Latn"), ("de-xx", "xx")])
def test_a_row_in_a_language_that_the_table_lacks_is_an_error(tmp_path: Path, said: str, code: str) -> None:
    """One of the table that the run leaves out is passed over."""
    message = UNKNOWN_LANGUAGE.format(said, code)
    flat = {"source": "a", "target": "b", "chosen": "b", "rejected": "c", "direction": said}
    with pytest.raises(UserError, match=message):
        pairs(text({"all.jsonl": json_lines(tmp_path / "x", [flat])}, tmp_path), "de-en")
    for row in (flat, alma_r(1.0, required=said), alma_r(1.0, required=f"en-de,{said}")):
        with pytest.raises(UserError, match=message):
            list(text({"all.jsonl": json_lines(tmp_path / "x", [row])}, tmp_path).triples("en-de", "kiwi"))


def test_rows_in_an_unknown_language_are_kept_aside_and_others_read(tmp_path: Path) -> None:
    found = [{"source": "a", "target": "b", "direction": name} for name in ("de-en", "xx-en", "cs-en", "mk-en", "de-en")]
    read = text({"all.jsonl": json_lines(tmp_path / "x", found)}, tmp_path, on_error="skip")
    assert pairs(read, "de-en") == [("a", "b")] * 2 and pairs(read, "cs-en") == [("a", "b")]
    assert isinstance(read.rejects, Rejects) and read.rejects.count == 1
    [kept] = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept["where"].endswith("x:2") and '"xx-en"' in kept["row"]
