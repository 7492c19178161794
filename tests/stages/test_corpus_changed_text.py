"""The `corpus` stage while someone writes to its text: it stops, and no resume point holds a row of the new content."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data import ingest
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.schema import Source
from helpers.text_files import LANGUAGES, json_lines, make_job, nested
from stages.corpus.config import Config
from stages.corpus.run import run


def test_text_that_changes_under_a_corpus_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = json_lines(tmp_path / "train", nested(400))
    content = path.read_bytes()
    monkeypatch.setattr(ingest, "BATCH", 50)
    monkeypatch.setattr(ingest, "SAVE_SECONDS", 0.0)
    rows = TextReader._rows

    def written_to(self: TextReader, part: str, skip: int) -> Iterator[Any]:
        """Someone adds a row, and takes it back, while row 120 of the second pass is read."""
        passes.append(part)
        for number, row in enumerate(rows(self, part, skip)):
            if number == 120 and len(passes) == 2:
                path.write_bytes(content + b'{"de": "neu", "en": "new"}\n')
                path.write_bytes(content)
            yield row

    passes: list[str] = []
    monkeypatch.setattr(TextReader, "_rows", written_to)
    source = Source(reader="files", files={"de.jsonl": "train"})
    languages = {code: LANGUAGES[code] for code in ("en", "de")}
    config = Config(form="pairs", pairs=source, languages=languages, directions=["de-en"], held_out=10, seed=7)
    job = make_job(tmp_path / "work", config, {"train": path})
    with pytest.raises(UserError, match=r"train changed while it was read"):
        run(job)
    manifest = json.loads((job.resume / "step-0" / "manifest.json").read_text())
    assert manifest["position"] == 100, "what was read before the change"
