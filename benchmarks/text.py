"""Real sentence pairs as training examples, the same for every side of a benchmark."""

import json
import random
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from alma_pipeline.ml.data.prompts import Example, Prompter
from alma_pipeline.schema import Language

LANGUAGES = {"en": Language(name="English", locale="en"), "de": Language(name="German", locale="de")}


def sentences(path: Path, count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """`count` rows (direction, source, target) of a file of ALMA-Human-Parallel's lines, both directions in turn."""
    with open(path, encoding="utf-8") as file:
        pairs = [json.loads(line)["translation"] for line in file]
    chosen = random.Random(seed).sample(pairs, count)
    return [
        ("de-en", pair["de"].strip(), pair["en"].strip()) if i % 2 else ("en-de", pair["en"].strip(), pair["de"].strip())
        for i, pair in enumerate(chosen)
    ]


def worse(target: str, seed: int) -> str:
    """A rejected answer of about the same length: a tenth of the words left out, a tenth in another place."""
    words, chance = target.split(), random.Random(seed)
    for _ in range(len(words) // 10 + 1):
        if len(words) > 2:
            words.pop(chance.randrange(len(words)))
            words.insert(chance.randrange(len(words)), words.pop(chance.randrange(len(words))))
    return " ".join(words)


def examples(tokenizer: PreTrainedTokenizerBase, rows: list[tuple[str, str, str]]) -> list[Example]:
    """As `parallel` trains on them: BOS, prompt, answer, EOS."""
    return Prompter(tokenizer, "alma", LANGUAGES).examples(rows)


def rejected(tokenizer: PreTrainedTokenizerBase, rows: list[tuple[str, str, str]]) -> list[Example]:
    """The same prompts with worse answers."""
    return examples(tokenizer, [(direction, source, worse(target, i)) for i, (direction, source, target) in enumerate(rows)])
