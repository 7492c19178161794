"""Corpora of generated text in two languages, made by the `corpus` stage."""

import json
from pathlib import Path
from typing import Any

import babel
import numpy as np

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Hardware, Language, Source
from stages.corpus.config import Config
from stages.corpus.run import run

NAMES = {"en": "English", "de": "German", "cs": "Czech"}
LANGUAGES = {code: Language(name=name, locale=code) for code, name in NAMES.items()}
TRAIN = Source(revision=babel.__version__)
TEST = Source(revision=babel.__version__, split="test")
DIRECTIONS = {"de-en", "en-de", "cs-en", "en-cs"}
PARTS = ("tokens", "offsets", "prompt")


def make_base(folder: Path) -> Input:
    """A base that is a tokenizer alone."""
    texts = [f"Translate this from Czech to English:\nCzech: {n}. května\nEnglish:May {n} Tage" for n in range(40)]
    train_tokenizer(texts, 290).save_pretrained(folder)
    return Input(key="base", kind="base", path=str(folder), result={}, base=str(folder))


class Made:
    """A corpus that was run: its folder, rows, arrays and counts."""

    def __init__(self, work: Path, inputs: dict[str, Input], files: dict[str, str] | None = None, **settings: Any) -> None:
        config = Config(**{"languages": LANGUAGES, "seed": 7, "held_out": 20, **settings})
        job = Job("corpus", "0", str(work), config, Hardware(name="cpu"), inputs, files or {})
        self.out, self.counts = job.out, run(job)["counts"]

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.out.iterdir()}

    def rows(self, split: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]

    def array(self, name: str) -> "np.ndarray[Any, Any]":
        found: np.ndarray[Any, Any] = np.load(self.out / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return found

    def examples(self, split: str) -> list[tuple[list[int], int]]:
        tokens, offsets, prompt = (self.array(f"{split}.{part}") for part in PARTS)
        assert tokens.dtype == prompt.dtype == np.int32
        assert offsets[0] == 0 and offsets[-1] == len(tokens) and len(offsets) == len(prompt) + 1
        bounds = zip(offsets, offsets[1:], prompt, strict=False)
        return [(tokens[start:end].tolist(), int(size)) for start, end, size in bounds]
