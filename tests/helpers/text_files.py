"""Small texts in German, Czech and English, a tokenizer made of them, and files of each kind: what the text tests run on."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Hardware, Language, Source
from stages.corpus.config import Config

LANGUAGES = {
    "en": Language(name="English", locale="en", nllb="eng_Latn"),
    "de": Language(name="German", locale="de", nllb="deu_Latn"),
    "cs": Language(name="Czech", locale="cs", nllb="ces_Latn"),
}
TWO = {code: LANGUAGES[code] for code in ("en", "de")}
ALL_CODES = (*LANGUAGES, "mk")
"""Of the whole table, with one that is none of the run's."""


def german(n: int) -> str:
    return f"Das Haus mit der Nummer {n} ist klein und grün."


def english(n: int) -> str:
    return f"The house with the number {n} is small and green."


def nested(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows as ALMA-Human-Parallel has them."""
    return [{"translation": {"de": german(n), "en": english(n)}} for n in range(start, start + count)]


def alma_r(delta: float, required: str = "", **scores: float) -> dict[str, Any]:
    """A row with every column of ALMA-R-Preference."""
    row: dict[str, Any] = {"de": "Ref", "en": "Ref en", "language_pair": "en-de", "required_directions": required, "Delta": delta}
    row |= {"alma_de": "Alma", "alma_en": "Alma en", "gpt4_de": "Gpt", "gpt4_en": "Gpt en"}
    for scorer in ("kiwi", "xcomet", "kiwi_xcomet"):
        for side in ("de", "en"):
            row |= {f"{name}_{side}_{scorer}": scores.get(name, 0.5) for name in ("alma", "gpt4", "ref")}
    return {"translation": row | {"alma_de_xcomet": 0.99}}


def json_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def text(files: Mapping[str, Path], folder: Path, columns: Mapping[str, str] | None = None, on_error: str = "stop") -> TextReader:
    """A source of these files, by what they hold."""
    source = Source(reader="files", files={name: name for name in files}, columns=dict(columns or {}), on_error=on_error)
    places = {name: str(path) for name, path in files.items()}
    return TextReader(source, LANGUAGES, places, Rejects(on_error, folder / "rejected.jsonl"), ALL_CODES)


def make_base(folder: Path) -> Input:
    """A `base` artifact as far as a corpus needs one."""
    texts = [f"Translate this from German to English:\nGerman: {german(n)}\nEnglish:{english(n)}" for n in range(60)]
    train_tokenizer(texts, 300).save_pretrained(folder)
    return Input(key="base", kind="base", path=str(folder), result={}, base=str(folder))


def make_job(work: Path, config: Any, files: Mapping[str, Path], **inputs: Input) -> Job:
    """A node's job whose settings name each file by its name in place of a digest."""
    places = {name: str(path) for name, path in files.items()}
    job = Job("corpus", "0", str(work), config, Hardware(name="cpu"), inputs, places)
    job.out.mkdir(parents=True, exist_ok=True)
    return job


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def source(*names: str, **settings: Any) -> Source:
    return Source(reader="files", files={name: name for name in names}, **settings)


def pairs_job(tmp_path: Path, base: Input, found: list[Any], name: str = "one", **settings: Any) -> Job:
    files = {"de.jsonl": json_lines(tmp_path / "train", found)}
    inputs = settings.pop("inputs", {})
    config = Config(**{"form": "pairs", "pairs": source(*files), "languages": TWO, "held_out": 10, "seed": 7, **settings})
    return make_job(tmp_path / name, config, files, base=base, **inputs)
