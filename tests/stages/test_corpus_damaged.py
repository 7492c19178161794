"""Damaged files of every format: a corpus accounts for every row, or one error names the file; never a traceback, never long."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from alma_pipeline.errors import UserError
from alma_pipeline.schema import Source
from helpers.text_files import LANGUAGES, english, german, make_job, rows
from stages.corpus.config import Config
from stages.corpus.run import run

FILES = 2000
SECONDS = 3.0
"""For any of the files: they have a few kilobytes."""
PAIRS = [(f"{german(n)} „So?“ 日本語 \U0001f600", f'{english(n)}, "so" & <b>bold</b>') for n in range(40)]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def a_csv() -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("de", "en"), *PAIRS, ("zwei\nZeilen", "two\nlines")])
    return file.getvalue().encode()


def a_parquet() -> bytes:
    file = io.BytesIO()
    table = pyarrow.Table.from_pylist([{"translation": {"de": one, "en": other}} for one, other in PAIRS])
    pyarrow.parquet.write_table(table, file, compression="none")
    return file.getvalue()


def a_tmx() -> bytes:
    plain = (f"{one}|{other}".replace("&", "&amp;").replace("<", "&lt;").split("|") for one, other in PAIRS)
    units = "".join(
        f'<tu><tuv xml:lang="de"><seg>{one}</seg></tuv>\n<tuv xml:lang="en"><seg>{other}<ph>x</ph></seg></tuv></tu>\n'
        for one, other in plain
    )
    return f'<?xml version="1.0" encoding="utf-8"?><tmx><body>\n{units}</body></tmx>'.encode()


WHOLE = {
    "de.jsonl": "".join(json.dumps({"de": one, "en": other}) + "\n" for one, other in PAIRS).encode(),
    "all.jsonl": "".join(
        json.dumps({"source": one, "target": other, "direction": "de-en"}, ensure_ascii=False) + "\n" for one, other in PAIRS
    ).encode(),
    "de.json": json.dumps([{"translation": {"de": one, "en": other}} for one, other in PAIRS], indent=1).encode(),
    "de.tsv": "".join(f"{one}\t{other}\n" for one, other in [("de", "en"), *PAIRS]).encode(),
    "de.csv": a_csv(),
    "de.parquet": a_parquet(),
    "all.tmx": a_tmx(),
}


def cut(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content))]


def flipped(draw: random.Random, content: bytes) -> bytes:
    result = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 30))):
        result[draw.randrange(len(result))] ^= 1 << draw.randrange(8)
    return bytes(result)


def spliced(draw: random.Random, content: bytes) -> bytes:
    """A piece that is missing, doubled or moved, or one of another format."""
    start, end = sorted(draw.randrange(len(content)) for _ in range(2))
    other = draw.choice([b"", content[start:end] * 2, draw.choice(list(WHOLE.values()))[start:end], draw.randbytes(40)])
    return content[:start] + other + content[end:]


def of_special_bytes(draw: random.Random, content: bytes) -> bytes:
    special = [
        b"\0",
        b'"',
        b"\r",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\\ud83d",
        b"{",
        b"[" * 3000,
        b"9" * 5000,
        b"<tu>",
        b"</tu>",
        b"<!--",
    ]
    result = content
    for _ in range(draw.choice((1, 5))):
        place = draw.randrange(len(result))
        result = result[:place] + draw.choice(special) + result[place:]
    return result


def in_another_encoding(draw: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(draw.choice(["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-7", "gb18030"]), "replace")


DAMAGE = [cut, flipped, spliced, of_special_bytes, in_another_encoding]


def damaged(draw: random.Random) -> tuple[str, bytes]:
    """The name and the content of a file. The packing may be damaged, or what it holds, or it is another than the name has."""
    form, packing = draw.choice(list(WHOLE)), draw.choice(list(PACKERS))
    packing = "" if form == "de.parquet" else packing
    content, damage = WHOLE[form], draw.choice(DAMAGE)
    packed = PACKERS[packing]
    if draw.random() < 0.2:
        return f"{form}{draw.choice(list(PACKERS)) if form != 'de.parquet' else ''}", packed(content)
    return f"{form}{packing}", damage(draw, packed(content)) if draw.random() < 0.4 else packed(damage(draw, content))


def outcome(folder: Path, name: str, content: bytes, policy: str) -> str:
    """What a test corpus makes of the file: `read`, `row` or `file` for where the error is. Fails for anything else."""
    path = folder / f"file{Path(name).suffix}"
    path.write_bytes(content)
    source = Source(reader="files", files={name: name}, on_error=policy)
    languages = {code: LANGUAGES[code] for code in ("en", "de")}
    config = Config(form="test", pairs=source, languages=languages, directions=["de-en"], held_out=None, seed=1)
    try:
        counts = run(make_job(folder / "work", config, {name: path}))["counts"]
    except UserError as error:
        message = str(error)
        message.encode()
        assert str(path) in message, f"{name}: {message}"
        assert len(message) < 2000 and "\n" not in message
        return "row" if re.search(rf"{re.escape(str(path))}(:\d+|, (row|item) \d+)", message) else "file"
    found = counts["rows"]
    assert found["read"] == found["kept"] + sum(found["dropped"].values()) + found["rejected"]
    assert found["kept"] == len(rows(folder / "work" / "out" / "test.jsonl")) and (policy == "skip" or not found["rejected"])
    return "read"


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_damaged_files_are_accounted_for_or_named(policy: str, tmp_path: Path) -> None:
    seen = Counter[str]()
    for seed in range(FILES // 2):
        name, content = damaged(random.Random(f"{policy}/{seed}"))
        started = time.monotonic()
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            seen[outcome(folder, name, content, policy)] += 1
        except Exception as error:
            raise AssertionError(f"file {seed} of {policy}: {name}") from error
        assert time.monotonic() - started < SECONDS, f"file {seed} of {policy}: {name}"
    assert min(seen.values()) > 50, seen
