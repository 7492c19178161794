"""Data sets of the hub in their published layouts, as folders that `datasets` streams like repositories."""

import gzip
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from alma_pipeline.cli.progress import Progress
from alma_pipeline.errors import UserError
from alma_pipeline.ml.data import ingest
from alma_pipeline.ml.data.cleaning import Cleaner
from alma_pipeline.ml.data.ingest import CorpusPart, Ingestion, hold_out
from alma_pipeline.ml.data.readers import hub
from alma_pipeline.ml.data.readers.columns import Triple
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.ml.data.rows import Document
from alma_pipeline.schema import Cleaning, Source
from helpers.text_files import ALL_CODES, LANGUAGES, english, german, make_job, text


def streamed(tmp_path: Path, repo: Path, config: str | None = None, split: str = "train") -> TextReader:
    source = Source(reader="hub", repo=str(repo), config=config, split=split)
    return TextReader(source, LANGUAGES, {}, Rejects("stop", tmp_path / "rejected.jsonl"), ALL_CODES)


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def zstd(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(lines.encode())


def test_oscar_by_its_folders_of_packed_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its repository holds a loading script, which nobody runs, beside plain files in folders named by language."""
    repo = tmp_path / "OSCAR-2301"
    zstd(
        repo / "de_meta" / "de_meta_part_1.jsonl.zst", '{"content": "Ein Text.", "metadata": {}}\n{"content": "Zwei\\nZeilen."}\n'
    )
    zstd(repo / "en_meta" / "en_meta_part_1.jsonl.zst", '{"content": "A text.", "metadata": {}}\n')
    (repo / "OSCAR-2301.py").write_text("raise SystemExit('code of a repository was run')\n")
    monkeypatch.setitem(hub.FILE_PATTERNS, str(repo), hub.FILE_PATTERNS["oscar-corpus/OSCAR-2301"])
    found = streamed(tmp_path, repo)
    assert [row.text for row in found.documents("de")] == ["Ein Text.", "Zwei\nZeilen."]
    with pytest.raises(
        UserError,
        match=r"cannot read .*OSCAR-2301 \(cs_meta/\*\.jsonl\.zst\), split train.*: no such file.*data\.root=FOLDER",
    ):
        list(found.documents("cs"))
    assert [row.id for row in found.documents("de", skip=1)] == ["de:2"]
    assert [row.text for row in found.documents("en")] == ["A text."]


def test_on_the_hub_they_are_named_with_their_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **more: asked.append({"words": words, **more}))
    source = Source(reader="hub", repo="oscar-corpus/OSCAR-2301", revision="1" * 40)
    hub._open(source, None, "de_meta/*.jsonl.zst")
    files = {"train": f"hf://datasets/oscar-corpus/OSCAR-2301@{'1' * 40}/de_meta/*.jsonl.zst"}
    assert asked == [{"words": ("json",), "data_files": files, "split": "train", "streaming": True}]


def test_any_set_of_documents_by_a_configuration_for_each_language(tmp_path: Path) -> None:
    repo = tmp_path / "web"
    parquet(repo / "de" / "train-0.parquet", [{"url": "x", "text": german(1)}])
    (repo / "README.md").write_text("---\nconfigs:\n- {config_name: de, data_files: de/train-*}\n---\n")
    assert [row.text for row in streamed(tmp_path, repo, "{lang}").documents("de")] == [german(1)]


def test_a_test_set_with_a_configuration_and_a_column_for_each_direction(tmp_path: Path) -> None:
    """WMT22-Test, WMT23-Test and FLORES-200."""
    repo = tmp_path / "WMT22-Test"
    for direction in ("de-en", "en-de"):
        parquet(
            repo / direction / "test-0.parquet", [{direction: {"de": f"{direction} {n}", "en": english(n)}} for n in range(2)]
        )
    configs = "".join(
        f"- {{config_name: {name}, data_files: [{{split: test, path: {name}/test-*}}]}}\n" for name in ("de-en", "en-de")
    )
    (repo / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    rows = list(streamed(tmp_path, repo, "{direction}", "test").pairs("en-de"))
    assert [(row.source, row.target) for row in rows] == [(english(0), "en-de 0"), (english(1), "en-de 1")]


def test_preferences_in_one_table(tmp_path: Path) -> None:
    """X-ALMA-Preference: no configuration, the direction in a column."""
    repo = tmp_path / "X-ALMA-Preference"
    rows = [{"source": "Hi", "chosen": "Hallo", "reject": "Halo", "directions": name} for name in ("en-mk", "en-de")]
    parquet(repo / "data" / "train-0.parquet", rows)
    assert list(streamed(tmp_path, repo).triples("en-de", "")) == [(2, Triple("Hi", "Hallo", "Halo"))]


def test_a_pair_of_texts_may_be_packed(tmp_path: Path) -> None:
    for side, line in (("de", german(1)), ("en", english(1))):
        with gzip.open(tmp_path / f"x.{side}.gz", "wt", encoding="utf-8") as file:
            file.write(f"{line}\n")
    files = {"de-en/de.txt.gz": tmp_path / "x.de.gz", "de-en/en.txt.gz": tmp_path / "x.en.gz"}
    assert [(row.source, row.target) for row in text(files, tmp_path).pairs("de-en")] == [(german(1), english(1))]


def test_a_streamed_set_is_seen_to_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much there is nobody knows: what has been read is told, while rows are held out and after."""
    monkeypatch.setattr(ingest, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(ingest, "BATCH", 50)
    repo = tmp_path / "web"
    parquet(repo / "train-0.parquet", [{"text": german(n)} for n in range(200)])
    found = streamed(tmp_path, repo)
    part: CorpusPart[Document] = CorpusPart(
        "de", lambda skip: found.documents("de", skip), lambda: Cleaner(Cleaning(), LANGUAGES, frozenset()), found.bytes("de")
    )
    told: list[tuple[int, int]] = []
    job = make_job(tmp_path / "work", None, {})
    monkeypatch.setattr(type(job), "log", lambda job, step, total, metrics: told.append((step, total)))
    held_out = hold_out(job, [part], 5)
    assert told and told[0] == (50, 0)
    told.clear()
    Ingestion(job, tmp_path / "resume", None).run([part], held_out, 0.05)
    assert told == [(50, 0), (100, 0), (150, 0), (200, 0)]
    progress = Progress()
    progress.pace.add([{"step": step, "total": total, "time": float(step), "metrics": {}} for step, total in told])
    assert progress.text() == "200 rows"


@pytest.mark.parametrize("config", ["{pair}", "{lang}-en", "{direction}"])
def test_source_and_target_are_the_languages_that_the_configuration_names(tmp_path: Path, config: str) -> None:
    repo = tmp_path / "pairs"
    for name in ("de-en", "en-de"):
        texts = ("Haus", "house") if name == "de-en" else ("house", "Haus")
        parquet(repo / name / "train.parquet", [dict(zip(("source", "target"), texts, strict=True))])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("de-en", "en-de"))
    (repo / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    found = streamed(tmp_path, repo, config)
    assert [(row.source, row.target) for row in found.pairs("de-en")] == [("Haus", "house")]
    assert [(row.source, row.target) for row in found.pairs("en-de")] == [("house", "Haus")]


def test_source_and_target_without_a_direction_are_a_bad_row(tmp_path: Path) -> None:
    """Both directions read the same rows: one of them would take German for English."""
    repo = tmp_path / "pairs"
    parquet(repo / "train.parquet", [{"source": "Haus", "target": "house"}])
    with pytest.raises(UserError, match=r"row 1: no column 'direction'; expected one with the languages of 'source'"):
        list(streamed(tmp_path, repo).pairs("en-de"))
    source = Source(reader="hub", repo=str(repo), columns={"de": "source", "en": "target"})
    named = TextReader(source, LANGUAGES, {}, Rejects("stop", tmp_path / "rejected.jsonl"), ALL_CODES)
    assert [(row.source, row.target) for row in named.pairs("en-de")] == [("house", "Haus")]


def test_documents_of_one_configuration_are_of_one_language(tmp_path: Path) -> None:
    found = streamed(tmp_path, tmp_path / "web")
    found.check_languages(["de"])
    streamed(tmp_path, tmp_path / "web", "{lang}").check_languages(["en", "de"])
    with pytest.raises(UserError, match=r"web: the same documents would be read as en, de; expected \{lang\} in the"):
        found.check_languages(["en", "de"])
