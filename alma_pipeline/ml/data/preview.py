"""Shows one example of each tokenised text as token pieces, and which of them have loss. Prints JSON for the parent to display.

python -m alma_pipeline.ml.data.preview < REQUESTS        a JSON list of {node, folder, tokenizer, form, prompt, languages}
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.data.token_arrays import read_blocks, read_sequences
from alma_pipeline.schema import Language


def previews(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each example as a title, its pieces as text, and the number of leading pieces without loss (`prompt`)."""
    tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"], local_files_only=True)
    folder = Path(request["folder"])
    if request["form"] == "preferences":
        yield from _answers(folder, tokenizer, request)
    elif request["form"] == "pairs":
        example, row = read_sequences(folder, "train").examples[0], _first(folder / "train.jsonl")
        yield _shown(f"{row['direction']}, first example", list(map(int, example.ids)), example.prompt, tokenizer)
    else:
        block = read_blocks(folder, "train").examples[0]
        yield _shown(f"first block of {len(block.ids)} tokens", list(map(int, block.ids)), block.prompt, tokenizer)


def _answers(folder: Path, tokenizer: PreTrainedTokenizerBase, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    row = _first(folder / "train.jsonl")
    languages = {code: Language(**value) for code, value in request["languages"].items()}
    prompter = Prompter(tokenizer, request["prompt"], languages)
    for side in ("chosen", "rejected"):
        example = prompter.examples([(row["direction"], row["source"], row[side])])[0]
        yield _shown(f"{row['direction']}, {side}", example.ids, example.prompt, tokenizer)


def _first(path: Path) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        row: dict[str, Any] = json.loads(next(itertools.chain(file, ["{}"])))
    return row


def _shown(title: str, ids: list[int], prompt: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {"title": title, "pieces": [_piece(token, tokenizer) for token in ids], "prompt": prompt}


def _piece(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a token, or its vocabulary entry if it is only part of a character."""
    text = str(tokenizer.decode([token]))
    return text if "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token))


def main() -> None:
    """Answer the requests on standard input."""
    requests = json.load(sys.stdin)
    json.dump([{"node": request["node"], "parts": list(previews(request))} for request in requests], sys.stdout)


if __name__ == "__main__":
    main()
