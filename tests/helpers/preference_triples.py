"""Preference triples over the tiny vocabulary of `tiny_model`, with something in them that a model can learn."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from alma_pipeline.job import Input
from alma_pipeline.schema import Language
from helpers.tiny_model import LORA, VOCABULARY, as_input, make_job, make_pairs
from stages.parallel.run import run as run_parallel

LANGUAGES = {"en": Language(name="English", locale="en"), "de": Language(name="German", locale="de")}
CHOSEN, REJECTED = "w40", "w41"
ROOM = {"micro_batch_tokens": 512}
"""Hardware settings: prompts of words are longer than the token arrays of `tiny_model`."""


def make_preferences(
    folder: Path,
    train: int = 48,
    dev: int = 24,
    planted: tuple[str, str] = (CHOSEN, REJECTED),
    repeats: bool = False,
    extra: dict[str, dict[str, Any]] | None = None,
) -> Input:
    """Triples in both directions whose answers differ in one word, `planted` for the chosen and for the rejected one,
    or `repeats` nothing but that word. `extra` holds changes of a triple for further training triples, by id."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("dev", dev)):
        rows = [_triple(f"{name}{i}", rng, planted, repeats) for i in range(count)]
        if name == "train" and extra:
            rows += [rows[0] | {"id": key} | changes for key, changes in extra.items()]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Input("e" * 64, "preferences", str(folder), {})


def _triple(key: str, rng: np.random.Generator, planted: tuple[str, str], repeats: bool) -> dict[str, Any]:
    """A triple in the flat schema of a preferences artifact."""
    words = [f"w{number}" for number in rng.integers(3, 40, rng.integers(2, 7))]
    place = int(rng.integers(0, len(words)))
    answers = [[word] * len(words) if repeats else [*words[:place], word, *words[place:]] for word in planted]
    return {
        "id": key,
        "direction": str(rng.choice(["de-en", "en-de"])),
        "source": " ".join(words),
        "chosen": " ".join(answers[0]),
        "rejected": " ".join(answers[1]),
        "chosen_score": 100.0,
        "rejected_score": 50.0,
        "candidates": [],
    }


def make_adapter(folder: Path, base: Input) -> Input:
    """A LoRA that `parallel` left behind, trained with dropout."""
    lora = dataclasses.replace(LORA, dropout=0.1)
    inputs = {"init": base, "corpus": make_pairs(folder / "pairs")}
    job = make_job(folder / "parallel", "parallel", inputs, adapter="new", lora=lora)
    return as_input(job, run_parallel(job))


def folder_bytes(folder: str) -> dict[str, bytes]:
    """Every file of a folder, to tell that none changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


assert VOCABULARY > 42, "CHOSEN and REJECTED are words of the vocabulary"
