"""The corpora of `linear.py`: pairs of made-up words, prepared from text or written directly."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Cleaning, Hardware, Language, Source
from stages.corpus.config import Config
from stages.corpus.run import run

LANGUAGES = {"en": Language(name="English", locale="en"), "de": Language(name="German", locale="de")}
WORDS, HELD_OUT, STRETCH = 5000, 10, 1_000_000


def make_words() -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(WORDS)]


def make_base(folder: Path) -> Input:
    """A tokenizer of the made-up words, and a Llama small enough that what is around it shows."""
    tokenizer = train_tokenizer([f"Translate this from German to English: {word}" for word in make_words()], 2000)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    LlamaForCausalLM(LlamaConfig(**shape, **special, vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Input("base", "base", str(folder), {}, base=str(folder), base_key="base")


def corpus_job(folder: Path, base: Input, examples: int, name: str) -> Job:
    """The preparation of `examples` pairs and the held-out ones, whose text is written where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "de.jsonl"
    if not text.exists():
        write_text(text, examples + HELD_OUT)
    pairs = Source(reader="files", files={"de.jsonl": "text"})
    cleaning = Cleaning(steps=["nfc", "length", "ratio"])
    config = Config(
        form="pairs", pairs=pairs, languages=LANGUAGES, directions=["de-en"], held_out=HELD_OUT, seed=1, cleaning=cleaning
    )
    work = str(folder / name)
    return Job("corpus", "corpus", work, config, Hardware(name="cpu"), {"base": base}, {"text": str(text)})


def write_text(path: Path, lines: int) -> None:
    words, draw = make_words(), random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(lines):
            german, english = (" ".join(draw.choices(words, k=draw.randint(5, 12))) for _ in range(2))
            file.write(json.dumps({"translation": {"de": german, "en": english}}) + "\n")


def prepared(folder: Path, base: Input, examples: int) -> Path:
    """The corpus that the other parts read."""
    job = corpus_job(folder, base, examples, "corpus")
    if not (job.out / "train.tokens.npy").exists():
        shutil.rmtree(job.work, ignore_errors=True)
        job.out.mkdir(parents=True)
        run(job)
    return job.out


def written(folder: Path, like: Path, examples: int) -> Path:
    """The arrays of a corpus of random tokens, with the dev set of another; a stretch in memory at a time."""
    if (folder / "train.prompt.npy").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in like.glob("dev.*"):
        shutil.copy(path, folder)
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, 61, examples)
    np.save(folder / "train.offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    total = int(lengths.sum())
    tokens = np.lib.format.open_memmap(folder / "train.tokens.npy", "w+", np.int32, (total,))
    for start in range(0, total, STRETCH):
        tokens[start : start + STRETCH] = draw.integers(3, 2000, min(STRETCH, total - start))
    tokens.flush()
    np.save(folder / "train.prompt.npy", (lengths // 2).astype(np.int32))
    return folder
